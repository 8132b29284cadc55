"""Pictures kept halfway through a network, so that a change in a late layer does not cost a run of the early ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from workloads import symbolic_graph

KEPT_BYTES = 2**28
"""Values held between the layers at most. Where a place needs more, runs start from the last one that did not."""


class Rerun:
    """Batches of pictures on their way through `module`, which must not change while this is used.

    Starting points go forward only: ask for changes in the order of the network's layers.
    """

    def __init__(self, module: nn.Module, batches: Sequence[Tensor]) -> None:
        """`module` in eval mode, `batches` normalised, (N, C, H, W), on its device."""
        self._graph = symbolic_graph(module)
        nodes = list(self._graph.graph.nodes)
        start = next(place for place, node in enumerate(nodes) if node.op == "placeholder")
        self._called = {str(node.target): place for place, node in reversed(list(enumerate(nodes)))}
        self._start = start + 1
        self._kept: list[dict[str, Any]] = [{nodes[start].name: batch} for batch in batches]

    def place(self, layers: Collection[str]) -> int:
        """Where in the network the first of these layers is called."""
        return min(self._called[layer] for layer in layers)

    def advance(self, place: int) -> None:
        """Brings the starting point forward to `place`, or leaves it where too much would have to be kept there."""
        if place <= self._start:
            return
        first = _run(self._graph, self._kept[0], self._start, place)
        tensors = [value for value in first.values() if isinstance(value, Tensor)]
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors) * len(self._kept) > KEPT_BYTES:
            return
        self._kept = [first, *(_run(self._graph, values, self._start, place) for values in self._kept[1:])]
        self._start = place

    def outputs(self, module: nn.Module, batches: int | None = None) -> Iterator[Tensor]:
        """What `module`, equal to the first up to the starting point, makes of the first `batches`, one by one.

        Its modes are its own: a batch norm in training mode sees every batch as it would in a whole run.
        """
        graph = symbolic_graph(module)
        nodes = list(graph.graph.nodes)
        for values in self._kept[:batches]:
            # A copy, for an operation in place would spoil what later runs start from.
            copied = {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}
            result: Tensor = _run(graph, copied, self._start, len(nodes))[nodes[-1].name]
            yield result


def _run(graph: torch.fx.GraphModule, values: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The values by node that live after nodes `begin`…`end` − 1, from those that lived before."""
    run = torch.fx.Interpreter(graph)
    nodes = list(graph.graph.nodes)
    run.env = {node: values[node.name] for node in nodes if node.name in values}
    with torch.no_grad():
        for node in nodes[begin:end]:
            run.env[node] = run.run_node(node)
            for dead in run.user_to_last_uses.get(node, ()):
                del run.env[dead]
    return {node.name: value for node, value in run.env.items()}
