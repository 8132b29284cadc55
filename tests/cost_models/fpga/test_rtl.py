"""The Verilog, simulated: cycles against the model, sums against NumPy and PyTorch, an assertion that can fail."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cost_models.fpga.rtl.simulate as simulation
from cost_models.fpga.equations import PIPELINE_DEPTH, ceil_div, steps
from cost_models.fpga.pipeline import Stage, latency, needed_rows
from cost_models.fpga.rtl import RtlBlock, RtlChain, rtl_images, rtl_reference, simulate_rtl
from workloads import InputError

needs_verilator = pytest.mark.skipif(
    not (shutil.which("verilator") and shutil.which("g++")), reason="Verilator or g++ is not installed"
)


def weights(shape: tuple[int, ...], sparsity: float, bits: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    return np.where(rng.random(shape) < sparsity, 0, values)


def work(block: RtlBlock) -> int:
    """Ho · ⌈Wo/V⌉ · S by the model's equations."""
    stored = np.full(block.out_channels, block.weights[0].size) if block.kind == "dense" else block.counts
    windows = block.out_height * int(ceil_div(block.out_width, block.pixels))
    return windows * int(steps(stored, block.filters, block.nonzeros))


def modelled(chain: RtlChain) -> Any:
    """The model's bracket of the chain's latency."""
    first = chain.blocks[0]
    groups = -(-first.channels // chain.words)
    stages = [Stage((), np.zeros(first.height, dtype=int), first.width, groups=groups)]
    for i, block in enumerate(chain.blocks):
        need = needed_rows(block.out_height, block.height, block.kernel, block.stride, block.padding)
        stages.append(Stage((i,), need, block.out_width, pixels=block.pixels, groups=block.groups, yields=True))
    return latency(stages, [float(chain.source_beats), *(float(work(block)) for block in chain.blocks)])


BLOCKS = {
    "sparse": RtlBlock(weights((7, 5, 3, 3), 0.7), 6, 7, 1, 1, filters=3, nonzeros=2, order=(3, 0, 6, 1, 2, 5, 4)),
    "strided, one filter pruned away": RtlBlock(
        np.concatenate([weights((2, 4, 3, 3), 0.9, bits=3), np.zeros((1, 4, 3, 3), dtype=int)]),
        7, 6, 2, 0, filters=1, nonzeros=3, weight_bits=3, activation_bits=5,
    ),
    "packed": RtlBlock(weights((6, 4, 3, 3), 0.5), 5, 7, 1, 1, filters=2, nonzeros=2, pixels=2),
    "dense, packed": RtlBlock(weights((5, 6, 3, 3), 0.3), 6, 6, 1, 1, filters=2, nonzeros=3, pixels=2, kind="dense"),
    "wide words": RtlBlock(
        weights((4, 3, 1, 1), 0.2, bits=16), 5, 5, filters=2, nonzeros=2, weight_bits=16, activation_bits=12
    ),
}  # fmt: skip


@needs_verilator
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_takes_the_models_cycles_and_gives_exact_sums(name: str, tmp_path: Path) -> None:
    block = BLOCKS[name]
    chain = RtlChain((block,), words=block.channels)
    images = rtl_images(chain, 3)
    # Room for two images: nothing but the block itself can hold it up.
    stored = RtlChain((replace(block, buffer_rows=2 * block.height),), words=block.channels)
    run = simulate_rtl(stored, images, resident=True, folder=tmp_path)
    assert run.spans[0][0] == work(block) + PIPELINE_DEPTH
    assert run.interval == max(work(block), chain.source_beats)
    np.testing.assert_array_equal(run.outputs, rtl_reference(chain, images))


CHAINS = {
    "fast to slow": RtlChain(
        (
            RtlBlock(weights((8, 4, 3, 3), 0.6), 10, 9, 1, 1, filters=4, nonzeros=4, pixels=2, shift=7),
            RtlBlock(weights((6, 8, 3, 3), 0.4, seed=1), 10, 9, 2, 1, filters=1, nonzeros=2),
        ),
        words=4,
    ),
    "slow to fast to slow": RtlChain(
        (
            RtlBlock(weights((6, 3, 5, 5), 0.5), 10, 10, 1, 2, filters=2, nonzeros=1, shift=8),
            RtlBlock(weights((8, 6, 1, 1), 0.2, seed=1), 10, 10, filters=4, nonzeros=3, kind="dense", shift=7),
            RtlBlock(weights((5, 8, 3, 3), 0.8, seed=2), 10, 10, 1, 1, filters=1, nonzeros=1, pixels=2),
        ),
        words=2,
    ),
}


@needs_verilator
@pytest.mark.parametrize("name", CHAINS)
def test_a_chains_latency_lies_in_the_bracket_and_near_its_mean(name: str, tmp_path: Path) -> None:
    chain = CHAINS[name]
    images = rtl_images(chain, 4)
    run, bracket = simulate_rtl(chain, images, folder=tmp_path), modelled(chain)
    assert bracket.optimistic <= run.latency <= bracket.pessimistic
    assert bracket.mean == pytest.approx(run.latency, rel=0.05)
    assert run.interval == max(chain.source_beats, *(work(block) for block in chain.blocks))
    expected = rtl_reference(chain, images)
    np.testing.assert_array_equal(run.outputs, expected)
    assert len(np.unique(expected)) > 50  # neither dead nor saturated on the way


@needs_verilator
def test_a_block_that_does_not_yield_to_writes_breaks_the_line_buffers_assertion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    for path in simulation.SOURCES:
        text = path.read_text()
        if path.stem == "line_buffer":
            assert text.count("assign hold ") == 1
            text = text.replace("assign hold ", "assign hold = 0; wire unused ")
        sources.append(tmp_path / path.name)
        sources[-1].write_text(text)
    monkeypatch.setattr(simulation, "SOURCES", tuple(sources))
    with pytest.raises(RuntimeError, match="written and read in the same cycle"):
        simulate_rtl(CHAINS["fast to slow"], folder=tmp_path / "run")


def test_the_reference_is_pytorchs_convolution() -> None:
    block = BLOCKS["strided, one filter pruned away"]
    chain = RtlChain((block,))
    images = rtl_images(chain, 2)
    wanted = torch.nn.functional.conv2d(
        torch.tensor(images, dtype=torch.float64), torch.tensor(block.weights, dtype=torch.float64), stride=2
    )
    np.testing.assert_array_equal(rtl_reference(chain, images), wanted.numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonzeros": 4, "kind": "dense"}, "M = 4 does not divide 5"),
        ({"pixels": 3}, "V = 3; allowed: 1, 2, 4"),
        ({"weight_bits": 4}, "do not fit in 4 bits"),
        ({"order": (0, 0, 1, 2, 3, 4, 5)}, "no permutation of its 7 filters"),
        ({"buffer_rows": 3}, "a buffer of 3 rows"),
        ({"filters": 8}, "P is 1 to 7 filters"),
        ({"height": 0}, "a 0×7 map is smaller"),
    ],
)
def test_a_block_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(BLOCKS["sparse"], **change)


def test_blocks_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match="block 1 takes"):
        RtlChain((BLOCKS["sparse"], BLOCKS["sparse"]))


def test_without_verilator_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs verilator, which is not installed"):
        simulate_rtl(RtlChain((BLOCKS["sparse"],)))
