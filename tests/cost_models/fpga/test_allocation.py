"""Allocation against brute force on small networks, and what must hold of every allocation."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.fpga import (
    RESOURCES,
    Allocation,
    Block,
    DoesNotFit,
    FpgaDevice,
    LayerFolding,
    Table,
    allocate,
    blocks,
    build_table,
    estimate,
    named_fpga,
    options,
    refine,
)
from cost_models.fpga import given as given_design
from cost_models.fpga.layout import cost
from workloads import Format, Layer, Network

PLENTY = 1e12
FORMATS = [*(Format("int", bits) for bits in (1, 2, 4, 8, 9, 16)), Format("minifloat", 4), Format("minifloat", 8)]


def device(lut: int, dsp: int, bram36: int, bandwidth: float = PLENTY, ff: int = 10**7, uram: int = 0) -> FpgaDevice:
    """A device all of which can be used, at 1 Hz, so that bandwidth is in bytes a cycle."""
    sizes = {"lut": lut, "ff": ff, "dsp": dsp, "bram36": bram36, "uram": uram}
    return FpgaDevice.model_validate(
        {
            "schema": 1,
            "name": "made-up",
            "version": 1,
            "summary": "for tests",
            "clock": {"value": 1.0, "unsourced": True},
            "resources": {name: {"value": size, "unsourced": True} for name, size in sizes.items()},
            "dram": {"bandwidth": {"value": bandwidth, "unsourced": True}, "efficiency": 1.0},
            "usable": dict.fromkeys(("lut", "ff", "dsp", "bram", "uram"), 1.0),
        }
    )


LARGE = device(60_000, 400, 200, ff=10**6, uram=20)


def network(draw: np.random.Generator, depth: int = 3) -> Network:
    """A chain of `depth` random layers behind the input: convolutions of any kind, linear layers, pools."""
    size = int(draw.choice([4, 12, 40]))
    channels = int(draw.integers(1, 4))
    layers = [Layer("image", "input", (), channels, channels, size, size, size, size)]
    for i in range(depth):
        kind = draw.choice(["conv", "conv", "conv", "depthwise", "linear", "pool"])
        before = layers[-1]
        inputs, size = before.out_channels, before.out_height
        kernel = int(draw.choice([1, 3])) if kind != "linear" else 1
        outputs = inputs if kind in ("depthwise", "pool") else int(draw.integers(1, 9))
        groups = inputs if kind == "depthwise" else 1
        sizes = (size,) * 4
        if kind == "linear":
            inputs, groups, sizes = inputs * size * size, 1, (1,) * 4
        elif kind == "pool":
            kernel, sizes = 1, (size,) * 4
        weights = inputs // groups * kernel**2
        sparse = draw.random() < 0.6
        nonzeros = draw.integers(0, weights + 1, outputs) if sparse else np.full(outputs, weights)
        layers.append(
            Layer(
                f"layer{i}",
                "conv" if kind == "depthwise" else kind,
                (before.name,),
                inputs,
                outputs,
                *sizes,
                kernel=(kernel, kernel),
                padding=(kernel // 2,) * 4,
                groups=groups,
                weight_format=FORMATS[draw.integers(len(FORMATS))],
                activation_format=FORMATS[draw.integers(len(FORMATS))],
                nonzeros=nonzeros if kind != "pool" else np.zeros(0, dtype=np.int64),
            )
        )
    return Network(tuple(layers), 0)


def three_layers(seed: int) -> tuple[Block, ...]:
    draw = np.random.default_rng(seed)
    return blocks(network(draw), draw.choice(["natural", "sorted", "equal"]))


SCARCE = (("lut",), ("lut", "dsp"), ("ff",), ("lut", "bram18"), ("lut", "bram18", "bandwidth"))


def small_device(work: Sequence[Block], seed: int) -> FpgaDevice:
    """A device with plenty of everything but what is scarce: of that, about what a fast design takes, or much less."""
    draw = np.random.default_rng(seed)
    found = [options(block, LARGE).costs for block in work]
    floor = max(one.cycles.min() for one in found)
    able = [one.resources[one.cycles <= floor] for one in found]
    fast = sum(rows[(rows / LARGE.budget).sum(1).argmin()] for rows in able)
    scarce = SCARCE[seed % len(SCARCE)]
    sizes = np.where([name in scarce for name in RESOURCES], draw.uniform(0.3, 1.1) * fast, LARGE.budget)
    lut, ff, dsp, bram, uram = (int(size) for size in sizes)
    bandwidth = 10.0 ** draw.uniform(-1, 0.5) if "bandwidth" in scarce else PLENTY
    return device(lut, dsp, bram // 2, bandwidth, ff, 0 if "bram18" in scarce else uram)


def without(on: FpgaDevice, scarce: str) -> FpgaDevice:
    """The device with plenty of what is scarce."""
    if scarce == "bandwidth":
        memory = on.dram.model_copy(update={"bandwidth": LARGE.dram.bandwidth})
        return on.model_copy(update={"dram": memory})
    name = "bram36" if scarce == "bram18" else scarce
    more = on.resources.model_copy(update={name: getattr(LARGE.resources, name)})
    return on.model_copy(update={"resources": more})


def brute_force(work: Sequence[Block], on: FpgaDevice) -> int | None:
    """The least II over all combinations of options; None where nothing fits."""
    cycles, moved, used = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros((1, len(RESOURCES)))
    for block in work:
        one = options(block, on).costs
        cycles = np.maximum(cycles[:, None], one.cycles).ravel()
        moved = (moved[:, None] + one.bytes).ravel()
        used = (used[:, None] + one.resources).reshape(-1, len(RESOURCES))
        fits = (used <= on.budget).all(1)  # what is too much after some layers is too much after all
        cycles, moved, used = cycles[fits], moved[fits], used[fits]
    traffic = np.ceil(moved / on.bytes_per_cycle - 1e-6).astype(np.int64)
    return int(np.maximum(cycles, traffic).min()) if len(cycles) else None


def fastest(work: Sequence[Block], on: FpgaDevice) -> tuple[Allocation, Allocation]:
    """What `allocate` finds, and what `refine` makes of it."""
    table = build_table([[block] for block in work], on)
    found = allocate(table, np.zeros((1, len(work)), dtype=int))
    return found, refine(table, [0] * len(work), found)


def cases(count: int = 110, combinations: int = 100_000) -> list[tuple[int, tuple[Block, ...], FpgaDevice]]:
    """Random networks on devices that are too small for them, such that brute force has few combinations to try."""
    found = []
    for seed in itertools.count():
        work = three_layers(seed)
        on = small_device(work, seed)
        if np.prod([len(options(block, on)) for block in work]) <= combinations:
            found.append((seed, work, on))
        if len(found) == count:
            break
    return found


def test_equals_brute_force() -> None:
    limits: Counter[str] = Counter()
    for seed, work, on in cases():
        expected = brute_force(work, on)
        found, refined = fastest(work, on)
        if expected is None:
            assert not found.fits[0] and not refined.fits[0], seed
            limits["nothing fits"] += 1
            continue
        assert refined.interval[0] == expected, seed
        assert (refined.shares[0] <= 1 + 1e-9).all(), seed
        floor = max(int(options(block, LARGE).costs.cycles.min()) for block in work)
        for scarce in SCARCE[seed % len(SCARCE)] if expected > floor else ():
            limits[scarce] += fastest(work, without(on, scarce))[1].interval[0] < expected
    # Everything stands in the way somewhere.
    assert all(limits[name] >= 5 for name in ("lut", "ff", "dsp", "bram18", "bandwidth", "nothing fits")), limits


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.tuples(*[st.sampled_from([1.0, 1.5, 4.0])] * 6))
def test_a_larger_budget_is_never_slower(seed: int, more: tuple[float, ...]) -> None:
    work = three_layers(seed)
    on = small_device(work, seed)
    sizes = on.resources
    larger = device(
        lut=int(sizes.lut.value * more[0]),
        dsp=int(sizes.dsp.value * more[1]),
        bram36=int(sizes.bram36.value * more[2]),
        bandwidth=on.dram.bandwidth.value * more[3],
        ff=int(sizes.ff.value * more[4]),
        uram=int(sizes.uram.value * more[5]),
    )
    before, after = fastest(work, on)[1], fastest(work, larger)[1]
    if before.fits[0]:
        assert after.fits[0]
        assert after.interval[0] <= before.interval[0]


def test_every_folding_is_matched_by_an_option() -> None:
    on = device(3000, 20, 8, bandwidth=0.5, uram=2)
    compared = 0
    for block in (block for seed in range(4) for block in three_layers(seed) if block.computes):
        kept = options(block, on).costs
        kept_rows = np.column_stack([kept.cycles, kept.resources, kept.bytes])
        for folding in foldings(block):
            one = cost(block, folding)
            if (one.resources <= on.budget).all():
                row = np.concatenate([one.cycles, one.resources[0], one.bytes])
                assert (kept_rows <= row).all(1).any(), (block.name, folding)
                compared += 1
    assert compared > 500


def foldings(block: Block) -> Iterator[LayerFolding]:
    """Some of all the ways to fold a block: powers of two, and everything at once."""
    for kind in ("dense",) if block.dense else ("dense", "sparse"):
        most = block.filter_size if kind == "dense" else max(1, int(block.nonzeros.max()))
        for filters, nonzeros, pixels, multiplier, weights in itertools.product(
            {1, 2, block.layer.out_channels}, {1, 4, most}, {1, 2, 4}, ("dsp", "lut"), ("bram", "uram", "dram")
        ):
            if filters <= block.layer.out_channels and nonzeros <= most and pixels <= block.window_columns:
                fields = {"filters": filters, "nonzeros": nonzeros, "pixels": pixels, "block": kind}
                yield LayerFolding.model_validate({**fields, "multiplier": multiplier, "weights": weights})


def deep_table() -> tuple[Table, np.ndarray]:
    """Eight layers with three variants each (dense, 60 % and 90 % of the weights zero), and candidates."""
    draw = np.random.default_rng(5)
    layers = [Layer("image", "input", (), 3, 3, 16, 16, 16, 16)]
    for i in range(8):
        inputs = layers[-1].out_channels
        outputs = int(draw.integers(8, 33))
        form = Format("int", 8)
        layers.append(
            Layer(
                f"layer{i}", "conv", (layers[-1].name,), inputs, outputs, 16, 16, 16, 16, (3, 3),
                padding=(1, 1, 1, 1), weight_format=form, activation_format=form, nonzeros=np.full(outputs, inputs * 9),
            )
        )  # fmt: skip
    variants = []
    for zeros in (0.0, 0.6, 0.9):
        pruned = [
            replace(layer, nonzeros=draw.binomial(layer.nonzeros, 1 - zeros)) if layer.kind == "conv" else layer
            for layer in layers
        ]
        variants.append(blocks(Network(tuple(pruned), 0)))
    table = build_table([variants[0][:1], *zip(*(made[1:] for made in variants), strict=True)], named_fpga("z7020"))
    first = np.zeros((300, 1), dtype=int)
    return table, np.column_stack([first, draw.integers(0, 3, (300, 8))])


def test_allocations_fit_and_never_beat_the_optimum() -> None:
    table, candidates = deep_table()
    found = allocate(table, candidates)
    assert found.fits.all()
    assert (found.shares <= 1).all()
    for i in range(4):
        one = Allocation(found.interval[i : i + 1], found.chosen[i : i + 1], found.shares[i : i + 1])
        refined = refine(table, candidates[i], one)
        assert (refined.shares <= 1 + 1e-9).all()
        assert refined.interval[0] <= found.interval[i] <= 1.3 * refined.interval[0]


def test_many_at_once_are_each_alone() -> None:
    table, candidates = deep_table()
    together, threads = allocate(table, candidates), allocate(table, np.tile(candidates, (4, 1)), workers=2)
    assert (threads.interval == np.tile(together.interval, 4)).all()
    assert (threads.chosen == np.tile(together.chosen, (4, 1))).all()


def test_given_is_the_sum_of_its_blocks() -> None:
    table, candidates = deep_table()
    draw = np.random.default_rng(0)
    for candidate in candidates[:5]:
        variants = [table.layers[layer][variant] for layer, variant in enumerate(candidate)]
        chosen = np.array([draw.integers(len(variant)) for variant in variants])
        found = given_design(table, candidate[None], chosen[None])
        rows = [variant.costs for variant in variants]
        used = sum(row.resources[o] for row, o in zip(rows, chosen, strict=True))
        moved = sum(row.bytes[o] for row, o in zip(rows, chosen, strict=True))
        slowest = max(row.cycles[o] for row, o in zip(rows, chosen, strict=True))
        assert found.interval[0] == max(slowest, np.ceil(moved / table.device.bytes_per_cycle))
        assert found.shares[0] == pytest.approx(used / np.maximum(table.device.budget, 1e-9))


def test_what_does_not_fit_is_said_and_the_offered_device_holds_it() -> None:
    large = network(np.random.default_rng(3), depth=30)
    tiny = device(300, 2, 2, bandwidth=1e9)
    with pytest.raises(
        DoesNotFit, match=r"does not fit made-up: it needs at least (lut|ff|dsp|bram18) [\d,]+ of"
    ) as told:
        estimate(large, tiny)
    assert "\n" not in str(told.value)
    (offered,) = re.findall(r"fpga-(\S+) is the smallest device that holds it", str(told.value))
    assert (estimate(large, named_fpga(offered)).resources.sum(0) <= named_fpga(offered).budget).all()
