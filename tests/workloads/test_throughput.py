"""Networks take turns and are left as they were; what is measured is at least what a step must take."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import workloads.throughput
from workloads import Workload, epoch_seconds

PAUSE = 0.01


class Watched(nn.Module):
    """A network that writes down when it runs, also as a copy, and pauses before."""

    def __init__(self, described: Workload, name: str, log: list[str], pause: float = 0.0) -> None:
        super().__init__()
        self.inner, self.pause = described.build(), pause
        self.write = lambda: log.append(name)  # a function is copied by reference: copies write into the same log

    def forward(self, images: Tensor) -> Tensor:
        assert self.training
        self.write()
        time.sleep(self.pause)
        return self.inner(images)


def test_every_round_runs_every_network_once_in_a_changing_order(classification: Workload) -> None:
    log: list[str] = []
    watched = {name: Watched(classification, name, log) for name in "abc"}
    epoch_seconds(watched, classification, classification.load(None).train, "fp32", steps=8)
    rounds = ["".join(log[start : start + 3]) for start in range(0, len(log), 3)]
    assert len(rounds) == 1 + 8
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 2


def test_a_limit_ends_it_after_a_whole_round(classification: Workload) -> None:
    log: list[str] = []
    watched = {name: Watched(classification, name, log) for name in "ab"}
    found = epoch_seconds(watched, classification, classification.load(None).train, "fp32", limit=0.0)
    assert Counter(log) == {"a": 1, "b": 1}
    assert all(seconds is not None and seconds > 0 for seconds in found.values())


def test_an_epoch_is_its_steps(classification: Workload) -> None:
    split = classification.load(None).train
    watched = {name: Watched(classification, name, [], pause) for name, pause in (("slow", PAUSE), ("quick", 0.0))}
    found = epoch_seconds(watched, classification, split, "fp32", steps=5)
    per_epoch = len(split) // classification.recipe.batch_size
    assert found["slow"] is not None and found["quick"] is not None
    assert found["slow"] >= per_epoch * PAUSE
    assert found["slow"] > found["quick"]


@pytest.mark.parametrize("task", ["classification", "segmentation"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_networks_and_random_generators_are_left_alone(
    task: str, precision: workloads.throughput.Precision, request: pytest.FixtureRequest
) -> None:
    described: Workload = request.getfixturevalue(task)
    network = described.build().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    drawn = torch.get_rng_state()
    epoch_seconds({"one": network, "other": network}, described, described.load(None).train, precision, steps=1)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_imitated_bf16_is_not_measured(classification: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads.throughput, "bf16_is_fast", lambda device: False)
    log: list[str] = []
    watched = {"one": Watched(classification, "one", log)}
    split = classification.load(None).train
    assert epoch_seconds(watched, classification, split, "bf16") == {"one": None}
    assert log == []
    assert epoch_seconds(watched, classification, split, "fp32", steps=1)["one"] is not None
