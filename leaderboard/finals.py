"""What a ranking is made from: finalists with their test accuracy, and the searches that they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Final:
    """An entry with a test accuracy on one track; accuracies are fractions, times in seconds."""

    id: str
    strategy: str
    role: str
    """`finalist`, or `control`: the dense network, or a finalist's structure trained from scratch."""
    study: str | None
    """Of the search that it was chosen from; None for the dense network, as the two below."""
    trial: int | None
    search_seed: int | None
    chosen: bool
    """Whether it was chosen for this track: where it was for another one only, it is shown and not ranked."""
    seed: int
    """Fresh: that it was trained on."""
    final_study: str
    """The study that the entry stands in: one for each search and fresh seed, its dense controls among them."""
    speedup: float | None
    low: float | None
    high: float | None
    latency: float | None
    energy: float | None
    unstable: bool
    """Whether its timing did not settle."""
    validation: float
    """Accuracy on the validation split, by which points are chosen."""
    accuracy: float
    """On the test split, by which they are scored; both as the target runs the network."""
    dense_accuracy: float
    parameters: int
    dense_parameters: int
    macs: int
    dense_macs: int
    bytes: int
    epochs: float
    seconds: float
    total_epochs: float
    total_seconds: float
    epoch_fp32: float | None
    dense_epoch_fp32: float | None


@dataclass(frozen=True)
class Searched:
    """A full evaluation of a search on one track."""

    strategy: str
    study: str
    trial: int
    seed: int
    speedup: float | None
    parameters: int
    dense_parameters: int
    accuracy: float
    """On the validation split, as the target runs the network."""
    seconds: float
    """Of its training."""
    evaluation_seconds: float | None
    """Of its whole full evaluation."""
    created: str
