"""Residual branches: which of them a network can lose whole, the network without them, and in which order they go.

In x + f(x) the skip carries the signal and the branch f corrects it, so that a trained network stands the loss of
single branches (Veit, Wilber and Belongie, Residual Networks Behave Like Ensembles of Relatively Shallow Networks, NIPS
2016, section 4.1). Branches are found in the torch.fx graph, and each is proved by execution: the network without it
computes what the network with its output zeroed does.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from posixpath import commonpath
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from workloads import (
    ArraySplit,
    Dense,
    InputError,
    Progress,
    Split,
    Workload,
    digest,
    kept,
    normalise,
    recipe_loss,
    reestimate_batch_norm,
    symbolic_graph,
)

from .groups import channel_groups

MOST_IMAGES, FEWEST_IMAGES = 512, 128
"""Training images that the loss of a removal is taken over [ours: between the two, all removals together see a quarter
of the training images, so that the order costs about a tenth of an epoch of training]."""
UNTOLD = 1e-3
"""Nats: rises of the loss that are less count as this much, for they cannot be told apart."""
_VERSION = 1
"""Of the losses; raise it when equal inputs give another, and the cache starts anew."""
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Branch:
    """The side of an addition that a network can lose; the other side, the skip, comes from the same value."""

    name: str
    """The longest module path that all its modules share, such as `layer1.0`; where another branch shares it too, or
    there is none, the branch's first weighted layer."""
    addition: str
    """Name of the addition in the network's graph."""
    output: str
    """Name of the branch's last node, an operand of the addition."""
    shape: tuple[int, ...]
    """Of the sum for one image: (C, H, W)."""


def branches(dense: Dense) -> list[Branch]:
    """The branches of a workload's dense network, in network order; found and proved once."""
    if "branches" not in dense.memo:
        dense.memo["branches"] = find_branches(dense.module, dense.workload.example)
    found: list[Branch] = dense.memo["branches"]
    return found


def find_branches(module: nn.Module, example: Tensor) -> list[Branch]:
    """Branches that any network can lose, in network order; `example` is one input, shape (1, C, H, W).

    Both sides of the addition have the same shape and read the same value; nothing else reads a value inside the
    branch or calls its weighted layers. Where both sides have weights (a shortcut by convolution), the branch is
    the one with more weighted layers. Of branches inside each other the inner ones count. A network whose graph cannot
    be read or run, or is another one in training, has none.
    """
    module, images = copy.deepcopy(module), _noise(example)
    try:
        training, graph = symbolic_graph(module.train()), symbolic_graph(module.eval())
        values = _values(graph, images)
    except Exception:
        return []  # whoever needs the graph says what is wrong with it
    if training.code != graph.code:
        return []
    sides = list(_sides(graph, {name: tuple(value.shape) for name, value in values.items()}))
    sides = [side for side in sides if not any(other.addition in side.inside for other in sides)]
    paths = [side.path for side in sides]
    found = [
        Branch(
            side.path if side.path and paths.count(side.path) == 1 else side.layers[0],
            side.addition.name,
            side.output.name,
            tuple(values[side.addition.name].shape[1:]),
        )
        for side in sides
    ]
    return [branch for branch in found if _agree(module, [branch], images)]


def without_branches(module: nn.Module, dropped: Sequence[Branch]) -> GraphModule:
    """A copy of `module`, in eval mode, with the skip in the place of every addition and no module of a branch left.

    Paths of the other modules stay as they are. `module` is the network that the branches were found in, or another of
    its kind.
    """
    traced = symbolic_graph(copy.deepcopy(module).eval())
    nodes = {node.name: node for node in traced.graph.nodes}
    for branch in dropped:
        addition, output = nodes[branch.addition], nodes[branch.output]
        (skip,) = (operand for operand in addition.all_input_nodes if operand is not output)
        addition.replace_all_uses_with(skip)
        traced.graph.erase_node(addition)
        _erase(traced.graph, output)
    for node in traced.graph.nodes:
        node.type = None  # an annotation that is text, which torch.fx cannot pickle
    # Made anew, so that it holds only the modules that its graph calls.
    return GraphModule(traced, traced.graph, type(module).__name__).eval()


def without(dense: Dense, names: Collection[str]) -> Dense:
    """The dense network and its workload's untrained one without the branches `names`; the same data and digest.

    It has a memo of its own, and is kept in that of `dense`. Raises `InputError` for a name that is no branch.
    """
    chosen = named(dense, names)
    if not chosen:
        return dense
    known: dict[tuple[Branch, ...], Dense] = dense.memo.setdefault("without", {})
    if chosen not in known:
        if not _agree(dense.module, chosen, _noise(dense.workload.example)):
            raise InputError(
                f"network {dense.workload.name} computes something else without the branches "
                f"{', '.join(branch.name for branch in chosen)} than with their outputs zeroed; drop fewer at a time"
            )
        known[chosen] = replace(
            dense,
            workload=replace(dense.workload, build=partial(_build, dense.workload.build, chosen)),
            module=without_branches(dense.module, chosen),
            memo={},
        )
    return known[chosen]


def named(dense: Dense, names: Collection[str]) -> tuple[Branch, ...]:
    """The branches of these names, in network order; raises `InputError` for a name that is none."""
    known = [branch.name for branch in branches(dense)]
    for name in names:
        if name not in known:
            raise InputError(
                f"network {dense.workload.name} has no residual branch {name!r}; its branches are "
                f"{', '.join(known) or 'none'}"
            )
    return tuple(branch for branch in branches(dense) if branch.name in names)


def removal_order(dense: Dense) -> tuple[str, ...]:
    """Names of all branches: each time the one without which the loss is least, given those already gone.

    See `removals`. Found once.
    """
    if "removal_order" not in dense.memo:
        dense.memo["removal_order"] = tuple(name for name, _ in removals(dense))
    order: tuple[str, ...] = dense.memo["removal_order"]
    return order


def removals(
    dense: Dense, savings: Mapping[str, float] | None = None, progress: Progress | None = None
) -> list[tuple[str, float]]:
    """Names of all branches in the order in which they go, each with the rise of the loss by all that is gone then.

    Greedy: the next is the branch without which the loss is least, given those already gone; with `savings` (name →
    what its going saves, in any one unit), the one whose going raises the loss least for what it saves. The rise is
    beside the whole network, by the recipe's loss (nats in classification) on up to 512 training images, batch norm
    re-estimated on the same; of equal branches the earlier one goes. Losses are kept below `cache_folder()`: those for
    the 27 branches of a ResNet-56 take three minutes. `progress(branches placed, branches)` tells how far it is. Raises
    `InputError` where the cache cannot be written.
    """
    left, gone, found = [branch.name for branch in branches(dense)], list[str](), list[tuple[str, float]]()
    if not left:
        return []
    losses = _Removals(dense)
    before = whole = losses.whole()
    while left:
        after = losses.without_one_more(gone)

        def price(name: str, after: Mapping[str, float] = after, before: float = before) -> float:
            if savings is None:
                return after[name]
            return max(after[name] - before, UNTOLD) / savings[name] if savings[name] > 0 else math.inf

        name = min(left, key=price)
        left.remove(name)
        gone.append(name)
        before = after[name]
        found.append((name, before - whole))
        if progress:
            progress(len(found), len(found) + len(left))
    return found


def data_free_order(dense: Dense) -> tuple[str, ...]:
    """Names of all branches: each time the last of the longest run of branches of one shape, earlier runs first.

    It looks at the structure alone and so suits methods that start from initial weights [our reconstruction]. A
    ResNet-20 becomes 2, 2, 2 blocks, then 1, 1, 1.
    """
    runs = [list(run) for _, run in groupby(branches(dense), key=lambda branch: branch.shape)]
    order = []
    while any(runs):
        order.append(max(runs, key=len).pop().name)
    return tuple(order)


def groups_before(dense: Dense, reduced: Dense) -> dict[str, str]:
    """Prune group of `reduced` → the one of `dense` that it comes from: they share a producer.

    The names differ where the group's first producer lay in a dropped branch.
    """
    of = {part.layer: group.name for group in channel_groups(dense) for part in group.producers}
    return {group.name: of[group.producers[0].layer] for group in channel_groups(reduced)}


@dataclass(frozen=True)
class _Side:
    """One operand of an addition, as nodes of the graph."""

    addition: Node
    output: Node
    inside: set[Node]
    """Nodes that this operand is computed from and the other one is not."""
    layers: list[str]
    """Its weighted layers, in order."""
    path: str


def _sides(graph: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[_Side]:
    """The branches, as far as the graph can tell."""
    before: dict[Node, set[Node]] = {}
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    for node in graph.graph.nodes:
        before[node] = {node}.union(*(before[operand] for operand in node.all_input_nodes))
        if node.target not in _ADDITIONS or len(node.all_input_nodes) != 2:
            continue
        one, two = node.all_input_nodes
        if node.name not in shapes or not shapes[node.name] == shapes.get(one.name) == shapes.get(two.name):
            continue
        skip, branch = sorted(
            (_side(graph, node, here, before[here] - before[there]) for here, there in ((one, two), (two, one))),
            key=lambda side: len(side.layers),
        )
        alone = all(user in branch.inside for inner in branch.inside - {branch.output} for user in inner.users)
        if (
            len(skip.layers) < len(branch.layers)
            and alone
            and set(branch.output.users) == {node}
            and all(calls.count(layer) == 1 for layer in branch.layers)
            and _read(branch) == (_read(skip) or {skip.output})
        ):
            yield branch


def _side(graph: GraphModule, addition: Node, output: Node, inside: set[Node]) -> _Side:
    modules = [str(node.target) for node in graph.graph.nodes if node in inside and node.op == "call_module"]
    layers = [name for name in modules if any(p.ndim > 1 for p in graph.get_submodule(name).parameters())]
    path = commonpath([name.replace(".", "/") for name in modules]).replace("/", ".") if modules else ""
    return _Side(addition, output, inside, layers, path)


def _read(side: _Side) -> set[Node]:
    """Nodes outside that the inside reads."""
    return {operand for node in side.inside for operand in node.all_input_nodes} - side.inside


def _erase(graph: Graph, node: Node) -> None:
    """Erases a node that nothing reads, and with it what only it has read."""
    if not node.users and node.op != "placeholder":
        operands = node.all_input_nodes
        graph.erase_node(node)
        for operand in operands:
            _erase(graph, operand)


def _build(build: Callable[[], nn.Module], dropped: Sequence[Branch]) -> nn.Module:
    return without_branches(build(), dropped)


class _Run(Interpreter):
    """Runs a graph with some nodes' values zeroed, and keeps every tensor by the node's name."""

    def __init__(self, graph: GraphModule, zeroed: Collection[str]) -> None:
        super().__init__(graph)
        self._zeroed = zeroed
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()  # what follows may change it in place
        return torch.zeros_like(value) if n.name in self._zeroed else value


def _values(graph: GraphModule, images: Tensor, zeroed: Collection[str] = ()) -> dict[str, Tensor]:
    run = _Run(graph, zeroed)
    with torch.no_grad():
        run.run(images.clone())
    return run.values


def _noise(example: Tensor) -> Tensor:
    """Two pictures, always the same."""
    return torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))


def _agree(module: nn.Module, dropped: Sequence[Branch], images: Tensor) -> bool:
    """Whether the network without the branches computes what it does with their outputs zeroed.

    Every value inside is compared: the outputs of an untrained network may hardly depend on its inputs.
    """
    graph = symbolic_graph(copy.deepcopy(module).eval())
    zeroed = _values(graph, images, {branch.output for branch in dropped})
    small = _values(without_branches(module, dropped), images)
    return all(
        torch.allclose(value, zeroed[name], rtol=1e-4, atol=1e-5 * float(value.abs().max()))
        for name, value in small.items()
    )


_LOSSES = TypeAdapter(dict[str, float], config=ConfigDict(ser_json_inf_nan="constants"))


class _Removals:
    """Losses without branches, from the cache, else found and put there."""

    def __init__(self, dense: Dense) -> None:
        self._dense, self._names = dense, [branch.name for branch in branches(dense)]
        train, tried = dense.splits.train, len(self._names) * (len(self._names) + 1) // 2
        count = min(MOST_IMAGES, max(FEWEST_IMAGES, len(train) // (4 * tried)))
        chosen = np.random.default_rng(dense.seed).permutation(len(train))[:count]
        images, targets = train.batch(chosen)
        self._calibration = ArraySplit(images, targets)
        self._depends_on = {
            "version": _VERSION,
            "torch": torch.__version__,
            "workload": dense.workload.name,
            "structure": repr(dense.module),
            "weights": digest(dense.module.state_dict()),
            "data": digest({"images": images, "targets": targets}),
            "branches": self._names,
        }

    def whole(self) -> float:
        """That of the network with all its branches."""
        return self._kept([], {"": []})[""]

    def without_one_more(self, gone: Sequence[str]) -> dict[str, float]:
        """Branch that is left → the loss when it goes after those that are gone."""
        return self._kept(gone, {name: [name] for name in self._names if name not in gone})

    def _kept(self, gone: Sequence[str], more: Mapping[str, Sequence[str]]) -> dict[str, float]:
        def find() -> dict[str, float]:
            return {key: self._loss([*gone, *names]) for key, names in more.items()}

        return kept("branches", {**self._depends_on, "gone": sorted(gone), "more": list(more)}, _LOSSES, find)

    def _loss(self, names: Sequence[str]) -> float:
        chosen = named(self._dense, names)
        # A copy even of the whole: its batch norm is re-estimated.
        return _loss(without_branches(self._dense.module, chosen), self._dense.workload, self._calibration)


def _loss(module: nn.Module, workload: Workload, calibration: Split) -> float:
    """Mean loss of an image, after batch norm is re-estimated; infinite where it is no number."""
    reestimate_batch_norm(module, workload, calibration)
    criterion, size, total = recipe_loss(workload), workload.recipe.batch_size, 0.0
    module.to(workload.device)
    with torch.no_grad():
        for start in range(0, len(calibration), size):
            images, targets = calibration.batch(np.arange(start, min(start + size, len(calibration))))
            inputs = normalise(images.to(workload.device), workload)
            loss = criterion(module(inputs).float(), targets.to(workload.device), inputs)
            total += len(images) * loss.item()
    return total / len(calibration) if math.isfinite(total) else math.inf
