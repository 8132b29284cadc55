"""NVIDIA's GPUs through NVML (nvidia-ml-py): energy, power, temperature, clocks and what slows them down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from .counter import PowerIntegral, RisingCounter
from .meter import MeterError, NoMeter

LARGEST_STEP = 100_000_000
"""mJ between two readings across a wrap of the counter: 2 kW for 50 s, more than a card draws."""


def nvml_device(
    index: int = 0, uuid: str | None = None, clock: Callable[[], float] = time.perf_counter
) -> NvmlDevice | NoMeter:
    """The GPU of that index in NVML's order, or of that UUID, which wins; or why it cannot be metered.

    NVML knows nothing of `CUDA_VISIBLE_DEVICES`: match a CUDA device by its UUID, with `GPU-` or `MIG-` in front or
    without; torch does not tell a card's from that of a slice of it (MIG), which cannot be metered.
    `clock` in s is used where power is integrated. Belongs to the process that made it.
    """
    try:
        import pynvml
    except ImportError:
        return NoMeter("nvidia-ml-py, which reads NVIDIA's GPUs, is not installed")
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index) if uuid is None else _handle(pynvml, uuid)
        if _is_shared(pynvml, handle):
            return NoMeter(
                "NVML: the GPU is partitioned (MIG), and the energy of one slice cannot be told from the card's; to "
                "meter the whole card: sudo nvidia-smi -mig 0"
            )
        device = NvmlDevice(pynvml, handle, clock)
        device.joules()
    except pynvml.NVMLError as error:
        # Not the UUID: reasons stand in entries, which are shown to others.
        return NoMeter(_reason(pynvml, error, f"of index {index}" if uuid is None else "of the UUID that CUDA tells"))
    except MeterError as error:
        return NoMeter(str(error))
    return device


class NvmlDevice:
    """A whole GPU: a `PowerMeter` with what else matters while it is measured on.

    Energy is NVML's count in mJ since the driver was loaded (Volta and newer). Power is that of the moment
    (`NVML_FI_DEV_POWER_INSTANT`), where the driver tells it: what it calls the power usage is an average over 1 s on
    Ampere (except GA100) and newer. `name` says where the integral of the power stands for the count, and where power
    may be that average. Every method raises `MeterError` where the GPU is lost.
    """

    def __init__(self, nvml: Any, handle: Any, clock: Callable[[], float]) -> None:
        """`nvml` is the binding, initialised; raises its `NVMLError` and `MeterError`."""
        self._nvml, self._handle = nvml, handle
        self._unsupported = _unsupported(nvml)
        # Counters of 32 bits wrap after hours; those of 64 never do.
        self._counter = RisingCounter([2**32, 2**64], LARGEST_STEP)
        self._integral = PowerIntegral(clock)
        self.name = "nvml"
        self.product: str = nvml.nvmlDeviceGetName(handle)
        self.driver: str = nvml.nvmlSystemGetDriverVersion()
        self._instant = self._tells(self._instant_power)
        average = not self._instant and self._tells(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        try:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self.counted = True
        except nvml.NVMLError as error:
            if error.value not in self._unsupported or not (self._instant or average):
                raise
            self.counted = False
        if not self.counted:
            self.name += ", energy integrated from power"
        if average:
            self.name += ", power averaged over up to 1 s"

    def joules(self) -> float:
        """As in `PowerMeter`. A counter that was reset raises `MeterError` once and counts on."""
        if self.counted:
            now = self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
            try:
                return self._counter.grown(now) / 1000
            except MeterError as error:
                raise MeterError(f"{self.name}: {error}") from error
        watts = self.watts()
        if watts is None:
            raise MeterError(f"{self.name}: the power is not told any more")
        return self._integral.joules(watts)

    def watts(self) -> float | None:
        """As in `PowerMeter`."""
        power = self._instant_power if self._instant else lambda: self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        milliwatts = self._optional(power)
        return None if milliwatts is None else milliwatts / 1000

    def celsius(self) -> float | None:
        """As in `PowerMeter`."""
        nvml, handle = self._nvml, self._handle
        degrees = self._optional(lambda: nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
        if degrees is None:  # drivers before 570
            degrees = self._optional(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        return None if degrees is None else float(degrees)

    def sm_clock(self) -> float | None:
        """Clock of the multiprocessors in Hz at this moment."""
        megahertz = self._optional(lambda: self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
        return None if megahertz is None else megahertz * 1e6

    def throttle_reasons(self) -> int | None:
        """What keeps the clocks down at this moment, as NVML's bits (`nvmlClocksEventReasons`)."""
        nvml, handle = self._nvml, self._handle
        bits = self._optional(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if bits is None:  # drivers before 535
            bits = self._optional(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return bits

    def throttled(self) -> bool | None:
        """True where heat or power keeps the clocks down at this moment, not where they were set or nothing runs."""
        nvml, bits = self._nvml, self.throttle_reasons()
        slowed = (
            nvml.nvmlClocksEventReasonSwPowerCap
            | nvml.nvmlClocksEventReasonHwSlowdown
            | nvml.nvmlClocksEventReasonSwThermalSlowdown
            | nvml.nvmlClocksEventReasonHwThermalSlowdown
            | nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
        )
        return None if bits is None else bool(bits & slowed)

    def lock_clocks(self) -> contextlib.AbstractContextManager[object]:
        """Locks the clocks at the one that the card can keep at its power limit (`tdp`) until the context is left.

        Changes the card for all its users, and only root may, on Volta and newer; raises `MeterError` for others. At
        the end the clocks are free, whatever lock they had before.
        """
        limit = self._nvml.NVML_CLOCK_LIMIT_ID_TDP
        self._ask(lambda: self._nvml.nvmlDeviceSetGpuLockedClocks(self._handle, limit, limit))
        undone = contextlib.ExitStack()
        undone.callback(self._free_clocks)
        return undone

    def _free_clocks(self) -> None:
        # A card that was lost meanwhile has no lock, and its loss shows elsewhere.
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlDeviceResetGpuLockedClocks(self._handle)

    def _instant_power(self) -> int:
        """In mW; of the GPU, its memory and board."""
        answer = self._nvml.nvmlDeviceGetFieldValues(self._handle, [self._nvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if answer.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(answer.nvmlReturn)
        return answer.value.uiVal

    def _tells(self, function: Callable[[], Any]) -> bool:
        return self._optional(function) is not None

    def _optional(self, function: Callable[[], Any]) -> Any:
        """What `function` gives; None where the card, the driver or this user's rights do not allow it."""
        try:
            return function()
        except self._nvml.NVMLError as error:
            if error.value in self._unsupported:
                return None
            raise MeterError(f"{self.name}: {error}") from error

    def _ask(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except self._nvml.NVMLError as error:
            raise MeterError(f"{self.name}: {error}") from error


def _handle(nvml: Any, uuid: str) -> Any:
    """The card of that UUID, or the slice of one."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    except nvml.NVMLError_NotFound:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")


def _is_shared(nvml: Any, handle: Any) -> bool:
    """True where the card is partitioned (MIG), or this is one of its slices, which answer little else."""
    for is_so in (
        lambda: nvml.nvmlDeviceIsMigDeviceHandle(handle).value,
        lambda: nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE,
    ):
        try:
            if is_so():
                return True
        except nvml.NVMLError as error:
            if error.value not in _unsupported(nvml):
                raise
    return False


def _unsupported(nvml: Any) -> set[int]:
    """Errors of what the card, the driver or this user's rights do not allow."""
    return {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_NO_PERMISSION}


def _reason(nvml: Any, error: Any, which: str) -> str:
    """One line of why there is no meter, with what to do."""
    reasons = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no driver of NVIDIA's on this machine (libnvidia-ml.so.1 is not found)",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded; to load it: sudo modprobe nvidia",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's driver and its library differ in version; restart",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not read the GPU; see the rights of /dev/nvidia*",
        nvml.NVML_ERROR_NOT_SUPPORTED: "this GPU tells neither its energy nor its power",
        nvml.NVML_ERROR_INVALID_ARGUMENT: f"no GPU {which}",
        nvml.NVML_ERROR_NOT_FOUND: f"no GPU {which}",
    }
    return f"NVML: {reasons.get(error.value, str(error))}"
