"""From an entry back to its network: from the weights that were kept, else trained again from plan and seed.

Entries come from anybody. Nothing that stands in one is imported or run: a network of somebody's own is made by the
factory that the caller names, and workloads, strategies and targets are looked up among those that are installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from cost_models import Deployable
from leaderboard import Entry, Store
from strategies import Compressed, Plan, Simulated
from strategies import strategy as by_name
from workloads import Dense, InputError, Progress, TrainingCost, dense_is_cached, untrained
from workloads import dense as dense_network

from .evaluation import Evaluator, Subject
from .networks import KeptNetwork, network_file, read_network, restored

Source = Literal["kept", "given", "trained"]
"""Weights from the cache folder, from a file that the caller names, or from training again."""


@dataclass(frozen=True)
class Own:
    """What an entry does not say, or may not decide: where things lie on this machine, and whose code may run."""

    model: str | None = None
    """`package.module:factory` of a network of one's own, which is imported; the entry's word is never taken."""
    dataset: str | None = None
    """For `model`; the entry's unless given."""
    data_dir: Path | str | None = None
    checkpoint: Path | str | None = None
    """Weights (safetensors) of the dense network, where the entry's came from a file."""


@dataclass(frozen=True)
class Recreated:
    """A network as it was evaluated."""

    entry: Entry
    compressed: Compressed
    """Its fp32 network in eval mode, with masks, formats and plan."""
    source: Source
    evaluator: Evaluator
    """Of the entry's subject, without targets; its dense network is untrained where it was not needed."""

    def deployable(self) -> Deployable:
        """As it is deployed: batch norm folded, weights on the grids of their formats, and images to calibrate with."""
        return self.evaluator.deployable(self.compressed)

    def simulated(self) -> Simulated:
        """What the entry's validation accuracy is of: as deployed, with the inputs of layers in their formats too."""
        deployed = self.deployable()
        return Simulated(deployed.module, self.compressed.formats, deployed.calibration)


def load(
    entry: Entry | str,
    storage: str = "shrinkboard.db",
    *,
    weights: Path | str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    data_dir: Path | str | None = None,
    checkpoint: Path | str | None = None,
) -> nn.Module:
    """The network of an entry (or of its id in `storage`): physically small, fp32, trained, masked, in eval mode.

    It takes normalised images, (x − mean) / std of the workload. Number formats are not in it: `recreate` gives those
    too. Arguments and errors are those of `recreate`.
    """
    own = Own(model, dataset, data_dir, checkpoint)
    return recreate(entry, storage, weights=weights, own=own).compressed.module


def recreate(
    entry: Entry | str,
    storage: str = "shrinkboard.db",
    *,
    weights: Path | str | None = None,
    retrain: bool = False,
    own: Own | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Recreated:
    """The network of an entry (or of its id in `storage`), with all that it takes to deploy it.

    Its weights are those of the file `weights`, else those that this machine has kept; where there are none, as for
    entries from elsewhere, of older versions, or of a Ray worker on another machine, or with `retrain`, it is trained
    again from plan and seed, from the same dense network. `progress` follows that training, and that of the dense
    network. `say` is told why nothing of the above could be used. Raises `InputError` for weights that are not the
    entry's, another dense network than the entry's where it is trained again, and what is not at hand here.
    """
    if isinstance(entry, str):
        with Store(storage, create=False) as store:
            entry = store.get(entry)
    subject = subject_of(entry, own or Own())
    plan_of(entry)
    found = None if retrain else find_weights(entry, weights, say)
    if found is not None:
        evaluator = Evaluator(subject, [], dense=_any_dense(subject))
        compressed = from_weights(entry, found, evaluator.dense, weights, say)
        if compressed is not None:
            return Recreated(entry, compressed, "kept" if weights is None else "given", evaluator)
    check_checkpoint(entry, subject)
    evaluator = Evaluator(subject, [])
    dense = evaluator.open_dense(progress)
    if dense.digest != entry.dense_digest:
        raise InputError(
            f"entry {entry.id} was shrunk from the dense network {entry.dense_digest[:12]}, and the one here is "
            f"{dense.digest[:12]} (processors and versions train alike, but not to the same bits): give the entry's "
            "weights, or the checkpoint of its dense network"
        )
    compressed, _ = trained_again(entry, evaluator, progress)
    return Recreated(entry, compressed, "trained", evaluator)


def from_weights(
    entry: Entry,
    kept: KeptNetwork,
    dense: Dense,
    given: Path | str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Compressed | None:
    """The network that the weights are of.

    Where it cannot be rebuilt from them, `InputError` for a file that was `given`; for one in the cache None, and `say`
    is told.
    """
    try:
        return restored(kept, dense, plan_of(entry))
    except InputError as error:
        if given is not None:
            raise InputError(f"weights {given}: {error}; leave them out to train the network again") from error
        say(f"the kept weights of entry {entry.id} cannot be used: {error}")
        return None


def trained_again(
    entry: Entry, evaluator: Evaluator, progress: Progress | None = None
) -> tuple[Compressed, TrainingCost]:
    """The network by the whole way that it was made, and what that cost: plan, seed and epochs are the entry's."""
    plan = plan_of(entry)
    method = by_name(plan.strategy)
    compressed = method.compress(evaluator.dense, plan)
    return compressed, evaluator.finish(method, compressed, entry.epochs, progress=progress)


def subject_of(entry: Entry, own: Own) -> Subject:
    """What the entry's network was shrunk from; raises `InputError` where that is code that the caller did not name."""
    told = entry.subject
    dataset, _, factory = entry.workload.partition("/")
    recorded = (told.model if told else None) or (factory if ":" in factory else None)
    if recorded is not None and own.model is None:
        raise InputError(
            f"entry {entry.id} is of somebody's own network, {recorded!r}, which is not imported on an entry's word: "
            "give it yourself with --model PACKAGE.MODULE:FACTORY (model= in Python) where you trust it"
        )
    if recorded is None and own.model is not None:
        raise InputError(f"entry {entry.id} is of the workload {entry.workload}; leave out the model {own.model}")
    return Subject(
        workload=entry.workload,
        model=own.model,
        dataset=None if own.model is None else own.dataset or (told.dataset if told else None) or dataset,
        data_dir=None if own.data_dir is None else str(own.data_dir),
        checkpoint=None if own.checkpoint is None else str(own.checkpoint),
        seed=entry.seed,
        learning_rate=told.learning_rate if told else None,
    )


def plan_of(entry: Entry) -> Plan:
    """The entry's plan; raises `InputError` where it is no plan, or not the one that the entry names."""
    plan = Plan.from_json(entry.plan)
    if plan.digest != entry.plan_digest or plan.strategy != entry.strategy:
        raise InputError(
            f"entry {entry.id} contradicts itself: its plan is {plan.digest[:12]} of strategy {plan.strategy!r}, and "
            f"it says {entry.plan_digest[:12]!r} of {entry.strategy!r}"
        )
    return plan


def check_checkpoint(entry: Entry, subject: Subject) -> None:
    """Raises `InputError` where the dense network came from a file that the caller did not name."""
    if entry.subject is not None and entry.subject.checkpoint and subject.checkpoint is None:
        raise InputError(
            f"the dense network of entry {entry.id} came from a file: give it with --checkpoint FILE (checkpoint= in "
            "Python), or give the entry's own weights"
        )


def find_weights(
    entry: Entry, given: Path | str | None = None, say: Callable[[str], None] = lambda line: None
) -> KeptNetwork | None:
    """The entry's trained network from the file that is given, else from the cache folder; None where it is not there.

    Raises `InputError` where the given file holds another network; `say` is told where the cache does.
    """
    if given is not None:
        return _read_checked(entry, Path(given))
    # A digest becomes the name of a file here, and comes from anybody.
    if entry.weights is None or not re.fullmatch("[0-9a-f]{64}", entry.weights):
        return None
    path = network_file(entry.weights)
    try:
        return _read_checked(entry, path) if path.is_file() else None
    except InputError as error:
        say(str(error))
        return None


def _read_checked(entry: Entry, path: Path) -> KeptNetwork:
    kept = read_network(path)
    if entry.weights is not None:
        if kept.digest != entry.weights:
            raise InputError(
                f"weights {path} are not those of entry {entry.id}: they are {kept.digest[:12]}, the entry's are "
                f"{entry.weights[:12]}"
            )
        return kept
    # An entry of before weights were kept: only what the file says of itself can be compared.
    told = Plan.from_json(kept.about["plan"]).digest, kept.about["seed"], kept.about["dense"]
    if told != (entry.plan_digest, str(entry.seed), entry.dense_digest):
        raise InputError(f"weights {path} are of another plan, seed or dense network than entry {entry.id}")
    return kept


def _any_dense(subject: Subject) -> Dense:
    """The dense network where it lies ready; its untrained self, which has the same structure, where it does not."""
    workload = subject.open()
    return (dense_network if dense_is_cached(workload, subject.seed) else untrained)(workload, subject.seed)
