"""GPUs and CPUs through zeus (ml.energy/zeus), as meters: AMD's GPUs, and counters that its daemon reads without root.

    from cost_models.power.energy import measure_energy
    from cost_models.power.zeus import zeus_gpu

    reading = measure_energy(zeus_gpu(0), run, wait)

A target takes it by a class of its own:

    class WithZeus(CpuOnnxRuntime):
        base = "cpu-onnxruntime-zeus"

        def _meter(self):
            return zeus_cpu()

zeus is the extra `zeus`. It brings amdsmi, which breaks `import ray`: never install it beside the extra `ray`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .counter import PowerIntegral
from .meter import MeterError, NoMeter

_ABSENT = "zeus is not installed; in an environment without ray: pip install 'shrinkboard[zeus]'"


def zeus_gpu(index: int = 0, clock: Callable[[], float] = time.perf_counter) -> ZeusGpu | NoMeter:
    """The GPU of that index among those visible, NVIDIA's or AMD's, or why there is none.

    `clock` in s is used where power is integrated.
    """
    try:
        from zeus.device import get_gpus
        from zeus.exception import ZeusBaseError
    except ImportError:
        return NoMeter(_ABSENT)
    try:
        gpus = get_gpus().gpus
        if not 0 <= index < len(gpus):
            return NoMeter(f"zeus: no GPU of index {index} among {len(gpus)}")
        meter = ZeusGpu(gpus[index], clock)
        meter.joules()
    except ZeusBaseError as error:
        return NoMeter(f"zeus: {error}")
    except MeterError as error:
        return NoMeter(str(error))
    return meter


def zeus_cpu() -> ZeusCpu | NoMeter:
    """All processors of this machine, or why they cannot be metered.

    zeus counts the whole platform (`psys`), where the kernel shows it, as one more processor; `rapl_meter` does not. It
    starts a process that imports the main script anew, which must therefore guard what it does by `__name__`.
    """
    try:
        from zeus.device import get_cpus
        from zeus.exception import ZeusBaseError
    except ImportError:
        return NoMeter(_ABSENT)
    try:
        meter = ZeusCpu(get_cpus().cpus)
        meter.joules()
    except ZeusBaseError as error:
        return NoMeter(f"zeus: {error}")
    except MeterError as error:
        return NoMeter(str(error))
    return meter


class ZeusGpu:
    """A `PowerMeter` over a `zeus.device.gpu.GPU`."""

    def __init__(self, gpu: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self._gpu = gpu
        self._integral = PowerIntegral(clock)
        self.counted: bool = gpu.supports_get_total_energy_consumption()
        self.name = "zeus" if self.counted else "zeus, energy integrated from power"

    def joules(self) -> float:
        """As in `PowerMeter`."""
        if self.counted:
            return _ask(self._gpu.get_total_energy_consumption) / 1000
        return self._integral.joules(_ask(self._gpu.get_instant_power_usage) / 1000)

    def watts(self) -> float | None:
        """As in `PowerMeter`."""
        milliwatts = _optional(self._gpu.get_instant_power_usage)
        return None if milliwatts is None else milliwatts / 1000

    def celsius(self) -> float | None:
        """As in `PowerMeter`."""
        degrees = _optional(self._gpu.get_gpu_temperature)
        return None if degrees is None else float(degrees)


class ZeusCpu:
    """A `PowerMeter` over `zeus.device.cpu.CPU`s: their packages together, not the memory modules."""

    name = "zeus"
    counted = True

    def __init__(self, cpus: Any) -> None:
        self._cpus = list(cpus)

    def joules(self) -> float:
        """As in `PowerMeter`."""
        return sum(_ask(cpu.get_total_energy_consumption).cpu_mj for cpu in self._cpus) / 1000

    def watts(self) -> None:
        """It counts energy only."""
        return None

    def celsius(self) -> None:
        """It tells no temperature of processors."""
        return None


def _ask(function: Callable[[], Any]) -> Any:
    from zeus.exception import ZeusBaseError

    try:
        return function()
    except (ZeusBaseError, OSError) as error:
        raise MeterError(f"zeus: {error}") from error


def _optional(function: Callable[[], Any]) -> Any:
    """What `function` gives; None where the device does not tell it."""
    from zeus.device.gpu import ZeusGPUNotSupportedError

    try:
        return _ask(function)
    except MeterError as error:
        if isinstance(error.__cause__, ZeusGPUNotSupportedError):
            return None
        raise
