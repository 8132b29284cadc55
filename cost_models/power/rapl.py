"""The energy counters of x86 processors (RAPL), as Linux shows them through powercap."""

from __future__ import annotations

import sys
from pathlib import Path

from .counter import RisingCounter
from .meter import MeterError, NoMeter, PowerMeter

POWERCAP = Path("/sys/class/powercap")
HWMON = Path("/sys/class/hwmon")
_SENSORS = ("coretemp", "k10temp", "zenpower")
"""Drivers of the processor's temperature; the first input of each is that of the package."""


def rapl_meter(powercap: Path = POWERCAP, hwmon: Path = HWMON) -> PowerMeter | NoMeter:
    """The meter of this machine's processors, or why there is none."""
    if sys.platform == "darwin":
        return NoMeter("macOS tells energy through powermetrics only, which is not read")
    packages = _packages(powercap)
    if not packages:
        return NoMeter("no energy counter of the CPU (RAPL) on this machine; virtual machines have none")
    try:
        for zone in packages:
            _number(zone / "energy_uj")
        return RaplMeter(packages, hwmon)
    except PermissionError:
        return NoMeter(
            "the energy counter of the CPU (RAPL) may be read by root only; to allow it: "
            f"sudo chmod a+r {powercap}/intel-rapl:*/energy_uj"
        )
    except (OSError, ValueError) as error:
        return NoMeter(f"the energy counter of the CPU (RAPL) cannot be read: {error}")


class RaplMeter:
    """The packages of all sockets together: cores, caches and memory controllers, not the memory modules.

    Counters are refreshed every millisecond and start over at `max_energy_range_uj`, after minutes under load:
    docs.kernel.org/power/powercap/powercap.html.
    """

    name = "rapl"
    counted = True

    def __init__(self, packages: list[Path], hwmon: Path = HWMON) -> None:
        """`packages` are the folders of the packages in powercap; raises `OSError` where one cannot be read."""
        self._counters = [
            (zone / "energy_uj", RisingCounter([_number(zone / "max_energy_range_uj") + 1])) for zone in packages
        ]
        self._hwmon = hwmon

    def joules(self) -> float:
        try:
            return sum(counter.grown(_number(path)) for path, counter in self._counters) / 1e6
        except (OSError, ValueError) as error:
            raise MeterError(f"the energy counter of the CPU (RAPL) cannot be read: {error}") from error

    def watts(self) -> None:
        """RAPL counts energy only."""
        return None

    def celsius(self) -> float | None:
        """Of the hottest package."""
        degrees = []
        for sensor in self._hwmon.glob("hwmon*"):
            try:
                if (sensor / "name").read_text(encoding="ascii").strip() in _SENSORS:
                    degrees.append(_number(sensor / "temp1_input") / 1000)
            except (OSError, ValueError):
                continue
        return max(degrees, default=None)


def _packages(powercap: Path) -> list[Path]:
    """Folders of the whole packages.

    Left out for they would count twice: the parts of a package (`intel-rapl:0:0`), the whole platform (`psys`), and
    the second way to the same counters (`intel-rapl-mmio:0`). AMD's processors show under the same names.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
        except OSError:
            continue
        if name.startswith("package"):
            found.append(zone)
    return found


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
