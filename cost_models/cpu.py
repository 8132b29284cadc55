"""The CPU as a device: pinned while it is measured on, one measurement at a time, metered by RAPL."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from workloads import InputError

from .machine import pinned
from .measured import MeasuredTarget, Quiet
from .options import Option, thread_count
from .power.meter import NoMeter, PowerMeter
from .power.rapl import rapl_meter
from .timing import Clock, thread_timer


class CpuTarget(MeasuredTarget):
    """A runtime on the CPU, on one thread unless told otherwise (`threads`), pinned to as many CPUs."""

    device = "cpu"
    options: ClassVar[Mapping[str, Option]] = {**MeasuredTarget.options, "threads": thread_count}

    def __init__(self, *efforts: Any, **options: Any) -> None:
        super().__init__(*efforts, **options)
        self.threads: int = self.settings["threads"]
        if self.threads > (os.cpu_count() or self.threads):
            raise InputError(f"target {self.name}: this machine has {os.cpu_count()} CPUs; give threads=1 to that many")

    def _threads(self) -> int:
        return self.threads

    def _predict_threads(self) -> int:
        return torch.get_num_threads()

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[Quiet]:
        with pinned(self.threads) as pin:
            yield Quiet(pin.move, time.perf_counter if self.threads > 1 else self._timer())

    def _timer(self) -> Clock:
        """Seconds of work for an inference on one thread; by default that of the calling thread, which must do it."""
        return thread_timer()

    def _meter(self) -> PowerMeter | NoMeter:
        return rapl_meter()
