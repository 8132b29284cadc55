"""Do the FPGA model's cycles agree with its Verilog, simulated cycle by cycle?

    python scripts/validate_fpga_rtl.py --work DIR --out docs/results

Random single blocks: cycles, interval between images and sums of the simulation against the model and NumPy. Random
chains of two and three blocks: the simulated latency against the model's bracket. Needs Verilator and g++. `--work`
keeps what is simulated, one line a case; a second run goes on from there, and model and simulation are compared anew.
Writes fpga_rtl.md and fpga_rtl.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import shrinkboard as sb

NAME = "fpga_rtl"
Row = dict[str, Any]
CYCLES = 40_000
"""Most cycles of a block and image that is simulated."""
SPEC = {4: (3696, 2011, 1860), 8: (2297, 1144, 932), 16: (1348, 699, 468)}
"""P → cycles of a window in an earlier prototype: natural, sorted and equal filters, 80 % zeros, C = F = 64, K = 3."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="random single blocks (default 200)")
    parser.add_argument("--chains", type=int, default=60, help="random chains (default 60)")
    parser.add_argument("--work", type=Path, default=Path("build/fpga_rtl"), help="folder of finished cases")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page and its data")
    given = parser.parse_args()
    if min(given.cases, given.chains) < 1:
        parser.error(f"--cases {given.cases} --chains {given.chains}: both must be at least 1")
    cells = Cells(given.work)
    blocks = [block_row(i, cells) for i in range(given.cases)]
    orders = [order_row(filters, kind, cells) for filters in SPEC for kind in range(3)]
    chains = [chain_row(i, cells) for i in range(given.chains)]
    sizes = f"--cases {given.cases} --chains {given.chains}"
    command = f"python scripts/validate_fpga_rtl.py {sizes} --work DIR --out docs/results"
    given.out.mkdir(parents=True, exist_ok=True)
    data = {"command": command, "blocks": blocks, "orders": orders, "chains": chains}
    (given.out / f"{NAME}.json").write_text(json.dumps(data, indent=1) + "\n")
    (given.out / f"{NAME}.md").write_text(page(command, blocks, orders, chains))
    wrong = [row for row in blocks + orders if not row["exact"]] + [row for row in chains if not row["good"]]
    for row in wrong:
        print(json.dumps(row), file=sys.stderr)
    print(f"{len(blocks) + len(orders) + len(chains)} cases, {len(wrong)} of them disagree; {given.out / NAME}.md")
    sys.exit(1 if wrong else 0)


class Cells:
    """Finished simulations, a JSON line each."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.path, self.began = work / f"{NAME}.jsonl", time.monotonic()
        self.done: dict[str, Row] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                cell = json.loads(line)
            except ValueError:  # cut off by a kill: the cell is done again
                continue
            self.done[cell["key"]] = cell["value"]

    def get(self, key: str, compute: Callable[[], Row]) -> Row:
        if key not in self.done:
            started = time.monotonic()
            self.done[key] = compute()
            whole = self.path.read_text() if self.path.exists() else ""
            with self.path.open("a") as file:
                line = json.dumps({"key": key, "value": self.done[key]})
                file.write(("\n" if whole and not whole.endswith("\n") else "") + line + "\n")
            now = time.monotonic()
            print(f"[{now - self.began:6.0f} s] {key}: {now - started:.1f} s", file=sys.stderr, flush=True)
        return self.done[key]


def block_row(i: int, cells: Cells) -> Row:
    """One random block: alone with its image at hand, and in a stream of images through its line buffer."""
    rng = np.random.default_rng((1, i))
    while True:
        channels, size = int(rng.integers(1, 17)), int(rng.integers(4, 13))
        block = random_block(rng, channels, size, int(rng.integers(4, 13)), widths=range(1, 17))
        chain = sb.RtlChain((block,), words=int(rng.integers(1, channels + 1)))
        design = modelled(chain)
        if design.cycles.max() <= CYCLES:
            break

    def compute() -> Row:
        images = sb.rtl_images(chain, 4, seed=i)
        # Room for two whole images: nothing but the block itself can hold it up.
        stored = sb.RtlChain((replace(block, buffer_rows=2 * block.height),), chain.words)
        alone, streamed = sb.simulate_rtl(stored, images, resident=True), sb.simulate_rtl(chain, images)
        right = [bool((run.outputs == sb.rtl_reference(chain, images)).all()) for run in (alone, streamed)]
        return {"cycles": alone.spans[0][0], "interval": streamed.interval, "sums": all(right)}

    simulated = cells.get(f"block {i}", compute)
    predicted = {"cycles": work(design)[0] + sb.PIPELINE_DEPTH, "interval": design.interval, "sums": True}
    return {
        "case": i,
        **facts(block),
        "source words": chain.words,
        **{f"predicted {name}": predicted[name] for name in ("cycles", "interval")},
        **{f"simulated {name}": simulated[name] for name in ("cycles", "interval")},
        "sums": simulated["sums"],
        "exact": simulated["sums"] and simulated["cycles"] == predicted["cycles"],
    }


def order_row(filters: int, kind: int, cells: Cells) -> Row:
    """The spec's layer: what a window takes with natural, sorted and equal filters."""
    rng = np.random.default_rng(2)
    shape, size = (64, 64, 3, 3), 64 * 9
    # Unstructured pruning leaves filters of very different density, 20 % on average.
    density = rng.beta(1, 4, 64)
    each = np.full(64, 0.2) if kind == 2 else density * 0.2 / density.mean()
    kept = np.stack([rng.permutation(size) < np.ceil(share * size) for share in each]).reshape(shape)
    counts = kept.reshape(64, -1).sum(1)
    order = tuple(int(f) for f in np.argsort(-counts, kind="stable")) if kind == 1 else None
    block = sb.RtlBlock(np.where(kept, signed(rng, shape, 8), 0), 4, 4, filters=filters, order=order, buffer_rows=8)
    chain = sb.RtlChain((block,), words=64)

    def compute() -> Row:
        images = sb.rtl_images(chain, 3)
        run = sb.simulate_rtl(chain, images, resident=True)
        return {"cycles": run.spans[0][0], "sums": bool((run.outputs == sb.rtl_reference(chain, images)).all())}

    simulated = cells.get(f"filters {filters} {kind}", compute)
    [stepped] = work(modelled(chain))
    cycles = stepped + sb.PIPELINE_DEPTH
    return {
        "P": filters,
        "filters": ("natural", "sorted", "equal")[kind],
        "windows": 4,
        "predicted cycles": cycles,
        "simulated cycles": simulated["cycles"],
        "steps a window": stepped // 4,
        "prototype, cycles of one window": SPEC[filters][kind],
        "exact": simulated["sums"] and simulated["cycles"] == cycles,
    }


def chain_row(i: int, cells: Cells) -> Row:
    """One random chain: latency of an image alone and interval of a stream, simulated and modelled."""
    rng = np.random.default_rng((3, i))
    chain = random_chain(rng, 2 + i % 2, i)

    def compute() -> Row:
        images = sb.rtl_images(chain, 4, seed=i)
        run = sb.simulate_rtl(chain, images)
        return {
            "latency": run.latency,
            "interval": run.interval,
            "sums": bool((run.outputs == sb.rtl_reference(chain, images)).all()),
        }

    simulated = cells.get(f"chain {i}", compute)
    design = modelled(chain)
    low, high, mean = (float(getattr(design.latency, which)) for which in ("optimistic", "pessimistic", "mean"))
    error = mean / simulated["latency"] - 1
    return {
        "case": i,
        "blocks": " → ".join(described(block) for block in chain.blocks),
        "source words": chain.words,
        "cycles": [int(count) for count in design.cycles],
        "optimistic": low,
        "simulated": simulated["latency"],
        "pessimistic": high,
        "mean error": error,
        "predicted interval": design.interval,
        "simulated interval": simulated["interval"],
        "sums": simulated["sums"],
        "good": low <= simulated["latency"] <= high and abs(error) <= 0.05 and simulated["sums"],
    }


def random_block(
    rng: np.random.Generator,
    channels: int,
    height: int,
    width: int,
    widths: Sequence[int] = range(2, 9),
    least_pixels: int = 1,
    most_filters: int = 16,
) -> Any:
    """A block with every choice that the model knows drawn at random."""
    kernel = int(rng.choice([k for k in (1, 3, 5) if k <= min(height, width)]))
    stride, padding = (
        int(rng.choice([1, 1, 2])),
        kernel // 2 if rng.random() < 0.75 else int(rng.integers(0, kernel // 2 + 1)),
    )
    columns = (width + 2 * padding - kernel) // stride + 1
    count = int(rng.integers(1, most_filters + 1))
    size = channels * kernel**2
    dense = rng.random() < 0.3
    pixels = int(rng.choice([v for v in (1, 2, 4) if least_pixels <= v <= columns]))
    parallel = int(rng.integers(1, min(count, 8) + 1))
    lanes = [m for m in range(1, min(size, 8) + 1) if (channels % m == 0 or not dense) and m * parallel * pixels <= 32]
    wide = rng.random() < 0.3
    bits = [int(rng.choice([b for b in widths if wide or b <= 8])) for _ in range(2)]
    weights = random_weights(rng, (count, channels, kernel, kernel), bits[0], order := str(rng.choice(ORDERS)))
    counts = np.count_nonzero(weights.reshape(count, -1), axis=1)
    return sb.RtlBlock(
        weights,
        height,
        width,
        stride=stride,
        padding=padding,
        filters=parallel,
        nonzeros=int(rng.choice(lanes or [1])),
        pixels=pixels,
        weight_bits=bits[0],
        activation_bits=bits[1],
        kind="dense" if dense else "sparse",
        order=tuple(int(f) for f in np.argsort(-counts, kind="stable")) if order == "sorted" else None,
    )


ORDERS = ("natural", "sorted", "equal")


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int, order: str) -> np.ndarray:
    """Weights of 0 to 95 % zeros, more or less in every filter, or equally many (`equal`)."""
    size = int(np.prod(shape[1:]))
    sparsity = float(rng.uniform(0, 0.95))
    each = np.full(shape[0], sparsity) if order == "equal" else np.clip(rng.normal(sparsity, 0.1, shape[0]), 0, 1)
    kept = np.stack([rng.permutation(size) < round((1 - share) * size) for share in each])
    return np.where(kept.reshape(shape), signed(rng, shape, bits), 0)


def signed(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Integers of `bits` bits other than 0."""
    values = rng.integers(-(1 << (bits - 1)), max(1, (1 << (bits - 1)) - 1), shape)
    return values + (values >= 0) * (bits > 1)


def random_chain(rng: np.random.Generator, count: int, i: int) -> Any:
    """A chain of usual maps and channels; a third of them each slowing down, speeding up and as it comes."""
    while True:
        channels = source = int(rng.integers(3, 17))
        height, width = int(rng.integers(8, 25)), int(rng.integers(8, 25))
        blocks: list[Any] = []
        for _ in range(count):
            least = (blocks[-1].pixels + 1) // 2 if blocks else 1
            block = random_block(rng, channels, height, width, least_pixels=least, most_filters=24)
            blocks.append(block)
            channels, height, width = block.out_channels, block.out_height, block.out_width
            if min(height, width) < 8:
                break
        cycles = work(modelled(sb.RtlChain(tuple(blocks)))) if len(blocks) == count else [CYCLES + 1]
        wanted = (cycles == sorted(cycles), cycles == sorted(cycles)[::-1], max(cycles) < 1.5 * min(cycles), True)[
            i % 4
        ]
        if max(cycles) <= CYCLES and wanted:
            break
    chain = sb.RtlChain(tuple(blocks), words=int(rng.integers(1, source + 1)))
    # Shifts with which most activations are neither 0 nor saturated.
    for b in range(count - 1):
        sums = sb.rtl_reference(sb.RtlChain(chain.blocks[: b + 1], chain.words), sb.rtl_images(chain, 1))
        bits = chain.blocks[b + 1].activation_bits
        shift = max(0, int(np.percentile(np.abs(sums), 95)).bit_length() - bits)
        chain = replace(
            chain, blocks=(*chain.blocks[:b], replace(chain.blocks[b], shift=shift), *chain.blocks[b + 1 :])
        )
    return chain


def modelled(chain: Any) -> Any:
    """The model's design of the chain: its network, each filter's nonzeros in the order of processing, its folding."""
    layers = [nn.Conv2d(b.channels, b.out_channels, b.kernel, b.stride, b.padding, bias=False) for b in chain.blocks]
    first = chain.blocks[0]
    example = torch.zeros(1, first.channels, first.height, first.width)
    nonzeros = {
        str(n): np.count_nonzero(b.ordered.reshape(b.out_channels, -1), axis=1) for n, b in enumerate(chain.blocks)
    }
    network = sb.trace(nn.Sequential(*layers), example, nonzeros=nonzeros)
    folding = {network.layers[0].name: sb.LayerFolding(filters=chain.words)}
    for n, b in enumerate(chain.blocks):
        folding[str(n)] = sb.LayerFolding(filters=b.filters, nonzeros=b.nonzeros, pixels=b.pixels, block=b.kind)
    return sb.estimate(network, sb.named_fpga("zcu102"), folding, order="natural")


def work(design: Any) -> list[int]:
    """Ho · ⌈Wo/V⌉ · S of every block, by the model."""
    return [int(found.work[0]) for block, found in zip(design.blocks, design.costs, strict=True) if block.computes]


def facts(block: Any) -> Row:
    size = block.weights[0].size
    return {
        "block": block.kind,
        "C": block.channels,
        "map": f"{block.height}×{block.width}",
        "K": block.kernel,
        "stride": block.stride,
        "padding": block.padding,
        "filters": block.out_channels,
        "zeros": 1 - np.count_nonzero(block.weights) / (size * block.out_channels),
        "order": "sorted" if block.order else "natural",
        "P": block.filters,
        "M": block.nonzeros,
        "V": block.pixels,
        "bits": f"{block.weight_bits}×{block.activation_bits}",
    }


def described(block: Any) -> str:
    return (
        f"{block.kind} {block.channels}×{block.height}×{block.width} K{block.kernel} s{block.stride} p{block.padding} "
        f"F{block.out_channels} P{block.filters} M{block.nonzeros} V{block.pixels}"
    )


def page(command: str, blocks: Sequence[Row], orders: Sequence[Row], chains: Sequence[Row]) -> str:
    errors = np.array([abs(row["mean error"]) for row in chains])
    inside = sum(row["optimistic"] <= row["simulated"] <= row["pessimistic"] for row in chains)
    exact = sum(row["exact"] for row in blocks)
    three = np.array([row["blocks"].count("→") == 2 for row in chains])
    parts = {"all": errors, "of two blocks": errors[~three], "of three blocks": errors[three]}
    distribution = [
        {"chains": name, "number": len(of), "median error": f"{np.median(of):.2%}", "largest error": f"{max(of):.2%}"}
        for name, of in parts.items()
        if len(of)
    ]
    worst = sorted(chains, key=lambda row: -abs(row["mean error"]))[:12]
    return f"""# The FPGA model beside its Verilog

Made by `{command}` with Verilator; the same rows stand in `{NAME}.json`.

## Single blocks

{exact} of {len(blocks)} random blocks take exactly the cycles that the model says for an image that is there from the
start, Ho·⌈Wo/V⌉·S + {sb.PIPELINE_DEPTH}: windows follow without a gap, so the pipeline's depth is paid once an image.
Every sum equals NumPy's. In a stream of images through the block's line buffer, {intervals(blocks)} A sample:

{markdown([without(row, "exact") for row in blocks[:20]])}

## Natural, sorted and equal filters

C = 64, K = 3, 64 filters of very different density, 80 % zeros in all, M = 1, four windows. The last column is an
earlier prototype with other random weights, one window with its pipeline.

{markdown([without(row, "exact") for row in orders])}

## Chains

{inside} of {len(chains)} simulated latencies of an image alone lie between the two recurrences; the mean of both is at
most {errors.max():.2%} from the simulation. In a stream of images
{intervals(chains)}

{markdown(distribution)}

The chains where the mean is farthest off (cycles: source, then blocks):

{markdown([without(row, "good", "sums", "predicted interval", "simulated interval") for row in worst])}
"""


def intervals(rows: Sequence[Row]) -> str:
    """How the intervals between images compare, in words."""
    longer = [row["simulated interval"] / row["predicted interval"] - 1 for row in rows]
    off = [share for share in longer if share]
    if not off:
        return "the interval between images is exactly that of the slowest block or the source in all of them."
    return (
        f"the interval between images is exactly that of the slowest block or the source in {len(rows) - len(off)} of "
        f"{len(rows)}; elsewhere source and block are equally fast and wait for each other at every row, "
        f"which makes it at most {max(off):.1%} longer."
    )


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def markdown(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(field(column, row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def field(column: str, value: Any) -> str:
    if column in ("zeros", "mean error"):
        return f"{value:+.2%}" if column == "mean error" else f"{value:.0%}"
    if isinstance(value, list):
        return ", ".join(f"{item:,}" for item in value)
    if isinstance(value, bool):
        return "exact" if value else "wrong"
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
