"""Which folding every block gets, so that the pipeline is as fast as a device allows: one design, or thousands at once.

For a target initiation interval every block takes an option that keeps up with it; the sum of what the options take
must stay within the budget. What a resource is worth at the fastest target that fits, its shadow price, hardly differs
from one candidate to the next, so it is found once. It gives every candidate a lower bound, from which `allocate`
climbs until the blocks fit, each choosing in turn among a few options that are cheap near these prices. `refine` closes
what is left to the optimum of one candidate by integer programming.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import moocore
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array

from .block import Block
from .device import RESOURCES, FpgaDevice
from .equations import ceil_div
from .layout import MEMORIES, Costs, Foldings, costs

PIXELS = (1, 2, 4, 8)
"""Values of V that an allocation tries."""
_LEVELS = 1024
"""Targets between the fastest and the slowest option, evenly spaced in log II."""
_BANDS = 16
_SAMPLES = 8
"""Candidates whose shadow prices are looked at."""
_ALIKE = 0.05
"""Prices that differ by no more, of 1 in all, are one."""
_MOST = 3
"""Shadow prices that are kept."""
_TILTS = (3.0, 1 / 3)
"""Found by trying: on the eight devices ResNet-20's candidates are 0 to 6 % above their optimum, in the mean."""
_FREE = 2e-3
"""Least price of a resource: one that is not scarce is not wasted either."""
_PATIENCE = 8
"""Targets in a row that are tried before they are taken further apart."""
_CHUNK = 1024
_ROUNDING = 1e-5
"""Share of every budget that `allocate` leaves free, because it adds in float32."""
_TIDY = 0.25
"""Weight of all shares together beside the worst one, so that a design takes nothing for which it has no use."""
_BRISK = 0.02
"""Weight of a block's time, the interval being 1: blocks that cost next to nothing do not hold up an image."""
_CYCLES, _SHARES, _TRAFFIC = 0, slice(1, 1 + len(RESOURCES)), 1 + len(RESOURCES)
"""Columns of `Table.figures`."""


@dataclass(frozen=True)
class Options:
    """The foldings of one block among which an allocation chooses: none is beaten by another in everything."""

    foldings: Foldings
    costs: Costs
    """Sorted by cycles."""

    def __len__(self) -> int:
        return len(self.costs.cycles)


def options(block: Block, device: FpgaDevice) -> Options:
    """The foldings of `block` that are worth trying on `device`, at least one."""
    foldings = _weighted(block, device) if block.computes else _streaming(block, device)
    found = costs(block, foldings)
    fits = (found.resources <= device.budget).all(1)
    if not fits.any():  # kept all the same, so that what is missing can be said
        fits = np.ones(len(foldings), dtype=bool)
    kept = np.flatnonzero(fits)
    kept = kept[_undominated(np.column_stack([found.cycles, found.resources, found.bytes])[kept])]
    kept = kept[np.argsort(found.cycles[kept], kind="stable")]
    return Options(foldings[kept], Costs(**{name: column[kept] for name, column in vars(found).items()}))


def _weighted(block: Block, device: FpgaDevice) -> Foldings:
    most = int(block.nonzeros.max(initial=1)) if not block.dense else block.filter_size
    memories = [m for m, name in enumerate(MEMORIES) if name != "uram" or device.resources.uram.value]
    rows = []
    for sparse in (False, True) if not block.dense else (False,):
        size = max(most, 1) if sparse else block.filter_size
        rows.append(
            np.stack(
                np.meshgrid(
                    _parts(block.layer.out_channels),
                    _parts(size),
                    [v for v in PIXELS if v <= block.window_columns],
                    [int(sparse)],
                    [0, 1],
                    memories,
                    [m for m in memories if MEMORIES[m] != "dram"],
                    indexing="ij",
                ),
                -1,
            ).reshape(-1, 7)
        )
    table = np.concatenate(rows)
    lanes = table[:, 0] * table[:, 1] * table[:, 2]
    table = table[lanes <= max(1, device.resources.dsp.value * 4 + device.resources.lut.value // 8)]
    return Foldings(
        filters=table[:, 0],
        nonzeros=table[:, 1],
        pixels=table[:, 2],
        sparse=table[:, 3].astype(bool),
        dsp=table[:, 4].astype(bool),
        weights=table[:, 5],
        buffer=table[:, 6],
    )


def _streaming(block: Block, device: FpgaDevice) -> Foldings:
    channels = max(block.layer.in_channels, block.layer.out_channels)
    memories = [
        m
        for m, name in enumerate(MEMORIES)
        if name == "bram" or (name == "uram" and device.resources.uram.value) or (name == "dram" and block.waiting)
    ]
    filters, buffer = (axis.ravel() for axis in np.meshgrid(_parts(channels), memories, indexing="ij"))
    ones = np.ones(len(filters), dtype=np.int64)
    return Foldings(filters, ones, ones, ones == 0, ones == 0, ones * 0, buffer)


def _parts(size: int) -> np.ndarray:
    """Sizes in which `size` things are worked on: powers of two, and what makes few rounds come out even."""
    powers = [1 << i for i in range(size.bit_length()) if 1 << i <= size]
    even = [int(ceil_div(size, rounds)) for rounds in (1, 2, 3, 4, 5, 6, 8, 12, 16)]
    return np.unique([*powers, *even])


def _undominated(rows: np.ndarray) -> np.ndarray:
    """Positions of the rows that no other row is at most as large as in every column; of equal rows the first."""
    return np.flatnonzero(moocore.is_nondominated(rows, keep_weakly=False))


@dataclass(frozen=True)
class Table:
    """Options of all the variants that a layer can take, for all layers: built once, candidates gather from it."""

    layers: tuple[tuple[Options, ...], ...]
    """Layer → its variants."""
    device: FpgaDevice
    first: np.ndarray
    """Layer → the row of its first variant in the arrays below, shape (L,)."""
    figures: np.ndarray
    """Variant × option → cycles, share of the budget of every resource, cycles that moving its bytes takes; shape
    (E, O, 7). Past a variant's last option cycles are infinite."""
    levels: np.ndarray
    """Targets for the initiation interval, ascending, shape (T,)."""
    offers: np.ndarray
    """Prices × variant × level → of the options that keep up the cheapest at these prices and at each of the tilted
    ones, shape (W, E, T, K); -1 where none keeps up."""
    uses: np.ndarray
    """What the offers take of the resources and, of the level, to move their bytes; shape (W, E, T, 6, K), float32."""
    least: np.ndarray
    """Prices × variant × level → least cost, shape (W, E, T): layers that fit together cost at most 1."""
    order: np.ndarray
    """The layers, the largest first, shape (L,): what they leave uneven, the small ones even out."""


def build_table(layers: Sequence[Sequence[Block]], device: FpgaDevice) -> Table:
    """The table of a network whose layer l can be any of the blocks `layers[l]`."""
    made = tuple(tuple(options(block, device) for block in variants) for variants in layers)
    flat = [variant for variants in made for variant in variants]
    figures = np.zeros((len(flat), max(len(variant) for variant in flat), _TRAFFIC + 1))
    figures[..., _CYCLES] = np.inf
    for e, variant in enumerate(flat):
        figures[e, : len(variant), _CYCLES] = variant.costs.cycles
        figures[e, : len(variant), _CYCLES + 1 :] = _shares(variant.costs, device)
    real = figures[..., _CYCLES][np.isfinite(figures[..., _CYCLES])]
    levels = np.unique(np.ceil(np.geomspace(max(real.min(), 1), max(real.max(), 1), _LEVELS)))
    first = np.cumsum([0, *(len(variants) for variants in made)])[:-1]
    found = [[_cheapest(figures, levels, at) for at in _tilted(prices)] for prices in _shadow_prices(made, device)]
    least = np.stack([same[0][1] for same in found])
    offers = np.stack([np.stack([chosen for chosen, _ in same], -1) for same in found])
    uses = np.empty((*offers.shape[:-1], _TRAFFIC, offers.shape[-1]), dtype=np.float32)
    for use, offer in zip(uses, offers, strict=True):
        use[:] = figures[np.arange(len(flat))[:, None, None], np.maximum(offer, 0), _CYCLES + 1 :].swapaxes(-1, -2)
    uses[..., -1, :] /= levels[:, None]
    # Sizes are compared where every layer still keeps up.
    sizes = np.add.reduceat(least[0, :, np.isfinite(least[0]).all(0).argmax()], first)
    sizes = sizes / [len(variants) for variants in made]
    return Table(made, device, first, figures, levels, offers, uses, least, np.argsort(-sizes))


def _shares(found: Costs, device: FpgaDevice) -> np.ndarray:
    """Shares of the budget, and cycles that moving the bytes takes, shape (n, 6)."""
    # Of what there is none, one piece is twice too much.
    shares = found.resources / np.maximum(device.budget, 0.5)
    return np.column_stack([shares, found.bytes / device.bytes_per_cycle])


def _shadow_prices(layers: Sequence[Sequence[Options]], device: FpgaDevice) -> np.ndarray:
    """What the whole of every budget, and of external memory, is worth: at least `_FREE`, together 1; shape (W, 6).

    Duals of the linear relaxation at its least interval, of some candidates; of like ones only the first. They are few:
    what a DSP is worth in LUTs is the same for all multipliers of the same widths.
    """
    draw = np.random.default_rng(0)
    sampled = {tuple(int(draw.integers(len(variants))) for variants in layers) for _ in range(_SAMPLES)}
    kept: list[np.ndarray] = []
    for candidate in sorted(sampled):
        programme = _Programme([variants[i] for variants, i in zip(layers, candidate, strict=True)], device)
        prices = np.maximum(programme.relaxed(int(programme.intervals[programme.bound()]))[1], _FREE)
        prices /= prices.sum()
        if all(np.abs(prices - other).max() > _ALIKE for other in kept):
            kept.append(prices)
    return np.stack(kept[:_MOST])


def _tilted(prices: np.ndarray) -> np.ndarray:
    """The prices, and with one resource at a time dearer or cheaper than it is, shape (K, 6).

    At the shadow prices themselves options that take different resources cost the same, and all blocks would turn to
    the same ones.
    """
    scarce = [r for r in range(len(prices)) if r != RESOURCES.index("ff")]
    tilts = np.ones((1 + len(_TILTS) * len(scarce), len(prices)))
    for row, (tilt, r) in enumerate(itertools.product(_TILTS, scarce), start=1):
        tilts[row, r] = tilt
    return prices * tilts


def _cheapest(figures: np.ndarray, levels: np.ndarray, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variant × level → the cheapest option of those that keep up, and its cost; -1 and ∞ where there is none.

    Moving bytes takes a share of the target itself, so its price falls from level to level. It is that of the last
    level of a band, so that no cost is overstated.
    """
    chosen = np.empty((len(figures), len(levels)), dtype=np.int64)
    least = np.empty(chosen.shape)
    fixed = figures[..., _SHARES] @ price[:-1]
    for band in np.array_split(np.arange(len(levels)), min(_BANDS, len(levels))):
        cost = fixed + figures[..., _TRAFFIC] * (price[-1] / levels[band[-1]])
        # Options are sorted by cycles: the cheapest of the first n, for every n.
        lowest = np.minimum.accumulate(cost, 1)
        best = np.maximum.accumulate(np.where(cost <= lowest, np.arange(cost.shape[1]), 0), 1)
        for e in range(len(figures)):
            count = np.searchsorted(figures[e, :, _CYCLES], levels[band], side="right")
            able, last = count > 0, np.maximum(count - 1, 0)
            chosen[e, band] = np.where(able, best[e, last], -1)
            least[e, band] = np.where(able, lowest[e, last], np.inf)
    return chosen, least


@dataclass(frozen=True)
class Allocation:
    """Designs of N candidates of L layers."""

    interval: np.ndarray
    """II in cycles, shape (N,); 0 where nothing fits."""
    chosen: np.ndarray
    """Option of every layer, shape (N, L); meaningless where nothing fits."""
    shares: np.ndarray
    """Used share of the budget of every resource, shape (N, 5)."""

    @property
    def fits(self) -> np.ndarray:
        return self.interval > 0


def given(table: Table, candidates: np.ndarray, chosen: np.ndarray) -> Allocation:
    """The designs of `candidates` whose layers take the options `chosen`, both (N, L), whether they fit or not."""
    entries = table.first + np.asarray(candidates)
    rows = table.figures.reshape(-1, table.figures.shape[-1])
    interval, shares = np.empty(len(entries), dtype=np.int64), np.empty((len(entries), len(RESOURCES)))
    for i in range(0, len(entries), _CHUNK):
        part = slice(i, i + _CHUNK)
        places = (entries[part] * table.figures.shape[1] + chosen[part]).T
        slowest, total = np.zeros(places.shape[1]), np.zeros((places.shape[1], rows.shape[1]))
        for place in places:
            found = rows.take(place, axis=0)
            total += found
            np.maximum(slowest, found[:, _CYCLES], out=slowest)
        interval[part] = np.maximum(slowest, _whole(total[:, _TRAFFIC]))
        shares[part] = total[:, _SHARES]
    return Allocation(interval, np.asarray(chosen), shares)


def _whole(cycles: np.ndarray) -> np.ndarray:
    """Rounded up, but for what the addition of fractions leaves above a whole number."""
    return np.ceil(cycles - 1e-6)


def allocate(table: Table, candidates: np.ndarray, workers: int = 1) -> Allocation:
    """The fastest design that was found for every candidate; `candidates` holds the variant of every layer, (N, L).

    Mostly within a few per cent of the optimum, which `refine` proves. `workers` threads share the candidates.
    """
    entries = table.first + np.asarray(candidates)
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda i: _allocate(table, entries[i : i + _CHUNK]), range(0, len(entries), _CHUNK))
        chosen = np.concatenate(list(parts))
    found = given(table, candidates, np.maximum(chosen, 0))
    return Allocation(np.where((chosen >= 0).all(1), found.interval, 0), found.chosen, found.shares)


def _allocate(table: Table, entries: np.ndarray) -> np.ndarray:
    """Option of every layer, shape (n, L); -1 where nothing was found."""
    last = len(table.levels) - 1
    bounds = np.stack([_bound(least, entries) for least in table.least])
    level, prices = bounds.max(0), bounds.argmax(0)
    chosen, picked = np.full(entries.shape, -1), np.zeros(entries.shape[::-1], dtype=np.int64)
    going = np.flatnonzero(level <= last)
    for attempt in range(len(table.levels)):
        if not len(going):
            break
        at, by, pick = level[going], prices[going], picked[:, going]
        uses = [_uses(table, by, entries[going, layer], at) for layer in table.order]
        taken = [_of(use, pick[layer]) for use, layer in zip(uses, table.order, strict=True)]
        total = np.sum(taken, axis=0)
        for use, own, layer in zip(uses, taken, table.order, strict=True):
            total -= own
            pick[layer] = (total[:, None] + use).max(0).argmin(0)
            total += _of(use, pick[layer])
        fits = total.max(0) <= 1 - _ROUNDING
        done = going[fits]
        chosen[done] = table.offers[prices[done][:, None], entries[done], level[done][:, None], pick[:, fits].T]
        picked[:, going] = pick
        going = going[~fits & (at < last)]
        level[going] = np.minimum(level[going] + 1 + attempt // _PATIENCE, last)
    return chosen


def _uses(table: Table, prices: np.ndarray, entries: np.ndarray, level: np.ndarray) -> np.ndarray:
    """What the offers of a layer take, candidates last: shape (6, K, n)."""
    variants, levels, *shape = table.uses.shape[1:]
    rows = table.uses.reshape(-1, shape[0] * shape[1])
    found = rows.take((prices * variants + entries) * levels + level, axis=0)
    return np.ascontiguousarray(found.T).reshape(*shape, -1)


def _of(use: np.ndarray, pick: np.ndarray) -> np.ndarray:
    """What the picked offers take: of shapes (6, K, n) and (n,), the result's (6, n)."""
    return use[:, pick, np.arange(len(pick))]


def _bound(least: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """The first level that the least costs (E, T) do not rule out, shape (n,); past the last where they do all."""
    levels = least.shape[1]
    low, high = np.zeros(len(entries), dtype=np.int64), np.full(len(entries), levels)
    while (low < high).any():
        middle = (low + high) // 2
        cost = least[entries, np.minimum(middle, levels - 1)[:, None]].sum(1)
        open_ = (cost <= 1 + _ROUNDING) | (low >= high)
        low, high = np.where(open_, low, middle + 1), np.where(open_, np.minimum(middle, high), high)
    return high


def refine(table: Table, candidate: Sequence[int], start: Allocation) -> Allocation:
    """The fastest design of one candidate, proved by integer programming; `start` is what `allocate` found for it.

    Among designs of that speed it takes one that uses little, of the scarcest resource above all, and whose blocks are
    quick where that costs little. What fits nowhere stays as it is.
    """
    programme = _Programme([variants[i] for variants, i in zip(table.layers, candidate, strict=True)], table.device)
    interval = programme.fastest(int(start.interval[0]) or None)
    chosen = None if interval is None else programme.solve(interval, least="share")
    return start if chosen is None else given(table, np.array([candidate]), chosen[None])


def shortage(table: Table, candidate: Sequence[int]) -> np.ndarray:
    """Shares of the budget that the least design takes, however slow, shape (5,): some above 1 where nothing fits."""
    programme = _Programme([variants[i] for variants, i in zip(table.layers, candidate, strict=True)], table.device)
    chosen = programme.solve(None, least="share")
    assert chosen is not None
    return programme.used_by(chosen)[: len(RESOURCES)]


class _Programme:
    """One candidate's choice of options as an integer programme: one option a layer, shares that sum to at most 1."""

    def __init__(self, options: Sequence[Options], device: FpgaDevice) -> None:
        self.cycles = [option.costs.cycles for option in options]
        self.used = [_shares(option.costs, device) for option in options]
        values = np.unique(np.concatenate(self.cycles))
        self.intervals: np.ndarray = values[values >= max(int(cycles.min()) for cycles in self.cycles)]
        """Every II that the options can give, ascending."""

    def bound(self) -> int:
        """Position in `intervals` of the least that the linear relaxation does not rule out, or of the last."""
        low, high = 0, len(self.intervals) - 1
        while low < high:
            middle = (low + high) // 2
            if self.relaxed(int(self.intervals[middle]))[0] <= 1 + _ROUNDING:
                high = middle
            else:
                low = middle + 1
        return high

    def fastest(self, known: int | None) -> int | None:
        """The least II that fits, None if none does; `known` is one that fits."""
        # Mostly the bound or the next few: from there in growing steps, then by bisection.
        low, end = self.bound(), len(self.intervals)
        if known is not None:
            end = min(end, int(np.searchsorted(self.intervals, known)))
        high, stride = low, 1
        while high < end and self.solve(int(self.intervals[high])) is None:
            low, high, stride = high + 1, high + stride, 2 * stride
        high = min(high, end)
        while low < high:
            middle = (low + high) // 2
            if self.solve(int(self.intervals[middle])) is None:
                low = middle + 1
            else:
                high = middle
        found = int(self.intervals[high]) if high < len(self.intervals) else known
        if known is not None and found is not None:
            found = min(found, known)
        # External memory may allow less than the next slower option.
        between = self.least_traffic(int(self.intervals[high - 1]), found) if high else None
        return found if between is None else between

    def used_by(self, chosen: np.ndarray) -> np.ndarray:
        """Shares of the resources, and cycles that moving bytes takes, shape (6,)."""
        return np.sum([used[option] for used, option in zip(self.used, chosen, strict=True)], axis=0)

    def least_traffic(self, interval: int, below: int | None) -> int | None:
        """Cycles that external memory needs at least, if all blocks keep up with `interval`; None if none fit.

        Only what is less than `below` counts, unless that is None.
        """
        chosen = self.solve(interval, least="traffic", traffic=None if below is None else below - 1)
        return None if chosen is None else max(interval, int(_whole(self.used_by(chosen)[-1])))

    def relaxed(self, interval: int) -> tuple[float, np.ndarray]:
        """The least worst share if layers could mix options that keep up with `interval`, and what shares are worth.

        External memory's share is that of the interval; the prices, shape (6,), are the duals and sum to 1.
        """
        layer, _, used, _ = self._worth(interval)
        n = len(layer)
        used = np.column_stack([used[:, :-1], used[:, -1] / interval])
        one = coo_array((np.ones(n), (layer, np.arange(n))), shape=(len(self.cycles), n + 1))
        solved = linprog(
            np.append(np.zeros(n), 1.0),
            A_ub=np.column_stack([used.T, -np.ones(used.shape[1])]),
            b_ub=np.zeros(used.shape[1]),
            A_eq=one,
            b_eq=np.ones(len(self.cycles)),
        )
        return float(solved.fun), -solved.ineqlin.marginals

    def solve(
        self, interval: int | None, least: Literal["share", "traffic"] | None = None, traffic: int | None = -1
    ) -> np.ndarray | None:
        """Options of every layer that keep up with `interval`; None if none fit.

        `interval` None takes any speed and any size. External memory must keep up with `traffic` cycles (by default the
        interval, None: with none).
        """
        limit = interval if traffic == -1 else traffic
        # Without an interval only the worst share counts: it says whether anything fits.
        tidy = least == "share" and interval is not None
        layer, option, used, cost = self._worth(interval, tidy)
        n = len(layer)
        one = np.zeros((len(self.cycles), n + 1))
        one[layer, np.arange(n)] = 1
        # The solver's tolerance is absolute: shares in millionths keep it below one LUT.
        scale = 1e3
        shares = scale * np.column_stack([used[:, : len(RESOURCES)].T, -np.ones(len(RESOURCES))])
        constraints = [LinearConstraint(one, 1, 1), LinearConstraint(shares, -np.inf, 0)]
        if limit is not None:
            constraints.append(LinearConstraint(scale * np.append(used[:, -1] / limit, 0.0)[None], -np.inf, scale))
        objective = np.zeros(n + 1)
        if least == "share":
            objective[-1], objective[:n] = 1, cost
        elif least == "traffic":
            objective[:n] = used[:, -1]
        with _quiet():
            solved = milp(
                objective,
                constraints=constraints,
                bounds=Bounds(0, np.append(np.ones(n), 1.0 if interval is not None else np.inf)),
                integrality=np.append(np.ones(n), 0),
                options={"mip_rel_gap": 0.02 if least == "share" else 0.0},
            )
        if solved.x is None:
            return None
        chosen = np.zeros(len(self.cycles), dtype=np.int64)
        taken = solved.x[:n] > 0.5
        chosen[layer[taken]] = option[taken]
        return chosen

    def _worth(self, interval: int | None, tidy: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Layer, option, use and cost of what keeps up and is beaten by no other option of the layer in use and cost.

        The cost is 0 unless `tidy`: then it is the use as a whole, and the time beside the interval.
        """
        rows = []
        for layer, (cycles, used) in enumerate(zip(self.cycles, self.used, strict=True)):
            able = np.flatnonzero(cycles <= (np.inf if interval is None else interval))
            cost = np.zeros(len(able))
            if tidy and interval is not None:
                shares, moving = used[able, : len(RESOURCES)].sum(1), used[able, -1] / interval
                cost = _TIDY * (shares + moving) + _BRISK * cycles[able] / interval
            kept = _undominated(np.column_stack([used[able], cost]))
            rows.append((np.full(len(kept), layer), able[kept], used[able[kept]], cost[kept]))
        layers, chosen, uses, costs = zip(*rows, strict=True)
        return np.concatenate(layers), np.concatenate(chosen), np.concatenate(uses), np.concatenate(costs)


_STDOUT = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps off stdout what the solver prints past all options (HiGHS 1.12, `transformNewIntegerFeasibleSolution`)."""
    with _STDOUT:  # two threads would restore each other's
        sys.stdout.flush()
        kept = os.dup(1)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
