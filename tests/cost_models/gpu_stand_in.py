"""A stand-in for an NVIDIA GPU, which computes on the CPU, and targets on it: they check the logic, not CUDA."""

import time
import weakref
from types import MappingProxyType

import torch

from cost_models import GpuTorch


class Mark:
    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end_event):
        return (end_event.at - self.at) * 1e3


class Processor:
    """An accelerator that is the CPU. As a CUDA graph does, what it captures keeps nothing alive."""

    device = torch.device("cpu")
    name, uuid = "CPU in place of a GPU", "GPU-in-place"
    capability, cache = (9, 0), 1 << 16
    versions = MappingProxyType({"cuda": "none"})

    def captured(self, work):
        output, held = work().clone(), weakref.ref(work)
        return lambda: output.copy_(held()()), output

    def compressed(self, weight):
        return weight

    def event(self):
        return Mark()

    def occupy(self, seconds):
        pass

    def synchronize(self):
        pass


class OldProcessor(Processor):
    name, capability = "Turing", (7, 5)


class OnProcessor(GpuTorch):
    """The target on the stand-in; NVML is asked for a card of its UUID, and finds none."""

    accelerator = Processor()

    def _accelerator(self):
        return self.accelerator


class OnOldProcessor(OnProcessor):
    accelerator = OldProcessor()
