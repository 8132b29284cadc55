"""The channels in the layer table of a shrunk network, from the widths of its prune groups alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strategies import ChannelGroup
from workloads import Network


class WidthTable:
    """Input and output channels of every row of a table as functions of the groups' widths, which are affine.

    Thousands of candidates cost a matrix product; none of them is made or traced.
    """

    def __init__(self, network: Network, groups: Sequence[ChannelGroup]) -> None:
        """`network` is the table of the uncut network, `groups` its own."""
        self.dense = np.array([group.channels for group in groups])
        """Widths of the uncut network, (groups,)."""
        rows = network.layers
        self._inputs = np.array([row.in_channels for row in rows])
        self._outputs = np.array([row.out_channels for row in rows])
        # How many channels of a row go with one channel of a group, (rows, groups).
        self._input_parts = np.zeros((len(rows), len(groups)))
        self._output_parts = np.zeros((len(rows), len(groups)))
        places = {row.name: place for place, row in enumerate(rows)}
        cut = _cut_channels(groups)
        for place, row in enumerate(rows):
            path = row.name.partition("#")[0]  # a second call of a module is cut with the first
            if row.kind in ("conv", "linear") or (path, "in") in cut or (path, "out") in cut:
                self._input_parts[place] = cut.get((path, "in"), 0.0)
                self._output_parts[place] = cut.get((path, "out"), 0.0)
                continue
            feeding = [places[name] for name in (row.inputs if row.kind == "concat" else row.inputs[:1])]
            # Flattened maps have a multiple of the channels that made them.
            factor, rest = divmod(row.in_channels, max(1, self._outputs[feeding].sum()))
            if not rest:
                self._input_parts[place] = factor * self._output_parts[feeding].sum(0)
            if row.out_channels == row.in_channels:
                self._output_parts[place] = self._input_parts[place]

    def channels(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input and output channels, each (N, rows), at widths (N, groups)."""
        lost = self.dense - widths
        return self._inputs - lost @ self._input_parts.T, self._outputs - lost @ self._output_parts.T

    def together(self) -> list[tuple[int, int]]:
        """Pairs of groups, by position, that some row has both of: no others can multiply in a cost."""
        present = (self._input_parts + self._output_parts > 0).astype(int)
        first, second = np.nonzero(np.triu(present.T @ present, 1))
        return list(zip(first.tolist(), second.tolist(), strict=True))


def _cut_channels(groups: Sequence[ChannelGroup]) -> dict[tuple[str, str], np.ndarray]:
    """(layer, side) → its channels that go with one channel of every group, (groups,)."""
    indices: dict[tuple[str, str, int], list[np.ndarray]] = {}
    for place, group in enumerate(groups):
        for part in group.slices:
            for side in ("in", "out") if part.side == "both" else (part.side,):
                indices.setdefault((part.layer, side, place), []).append(part.index.ravel())
    cut: dict[tuple[str, str], np.ndarray] = {}
    for (layer, side, place), found in indices.items():
        parts = cut.setdefault((layer, side), np.zeros(len(groups)))
        parts[place] = len(np.unique(np.concatenate(found))) / groups[place].channels
    return cut
