"""The fake NVML library, compiled once, behind NVIDIA's own Python binding."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from .simulated import Bench

FUNCTIONS = {
    "fake_wind": [ctypes.c_double],
    "fake_power": [ctypes.c_double],
    "fake_counter": [ctypes.c_double] * 4,
    "fake_fail": [ctypes.c_char_p, ctypes.c_int, ctypes.c_double],
    "fake_mig": [ctypes.c_int],
    "fake_celsius": [ctypes.c_int],
    "fake_clock": [ctypes.c_uint, ctypes.c_ulonglong],
    "fake_locked": [ctypes.c_int * 2],
}


class Card(Bench):
    """The bench whose power and time are those of the fake card."""

    def __init__(self, library, **told):
        super().__init__(**told)
        self.library = library
        for name, arguments in FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
        library.fake_reset()
        library.fake_power(self.watts)

    def wind(self, seconds):
        self.library.fake_power(self.watts)
        self.library.fake_wind(seconds)
        super().wind(seconds)

    def counter(self, refresh=0.1, gain=1.0, begin=0.0, end=2.0**64):
        """Refreshed so often, `gain` times what is drawn, beginning at so many mJ, starting over at so many."""
        self.library.fake_counter(refresh, gain, begin, end)

    def fail(self, function, code, at=0.0):
        """The function returns this error from that time on."""
        self.library.fake_fail(function.encode(), code, at)

    def locked(self):
        pair = (ctypes.c_int * 2)()
        self.library.fake_locked(pair)
        return [value & 0xFFFFFFFF for value in pair]


@pytest.fixture(scope="session")
def fake_nvml(tmp_path_factory):
    """A folder in which libnvidia-ml.so.1 is the fake."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (gcc or cc) for the fake NVML library")
    folder = tmp_path_factory.mktemp("nvml")
    source, library = Path(__file__).with_name("fake_nvml.c"), folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-o", library, "-lm"], check=True)
    return folder


@pytest.fixture
def card(fake_nvml, monkeypatch):
    """Makes a card that draws what it is told; the binding is on the fake library until the test's end."""
    import pynvml

    library = ctypes.CDLL(str(fake_nvml / "libnvidia-ml.so.1"))
    # The binding keeps the library and its functions for good: other tests must find it as it was.
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield lambda **told: Card(library, **told)
    library.fake_reset()
