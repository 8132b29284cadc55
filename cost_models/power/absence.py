"""What this machine can say about the power that its CPU draws."""

from __future__ import annotations

import os
from pathlib import Path

RAPL = Path("/sys/class/powercap")


def cpu_power_absence() -> str:
    """Why the CPU targets give no energy and no power on this machine, in a few words.

    Intel's and AMD's counters (RAPL) show through powercap, which newer kernels let only root read and virtual machines
    lack.
    """
    counters = sorted(RAPL.glob("*rapl*/energy_uj"))
    if not counters:
        return "no energy counter of the CPU (RAPL) on this machine"
    if not os.access(counters[0], os.R_OK):
        return "the energy counter of the CPU (RAPL) may be read by root only"
    return "this version does not read the energy counter of the CPU (RAPL) yet"


def gpu_power_absence() -> str | None:
    """Why no GPU's power can be read on this machine; None where NVML finds one."""
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    try:
        return None if pynvml.nvmlDeviceGetCount() else "NVML finds no GPU"
    finally:
        pynvml.nvmlShutdown()
