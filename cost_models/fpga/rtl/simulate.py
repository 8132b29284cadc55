"""Simulates a chain of blocks cycle by cycle with Verilator, and computes what it should give with NumPy."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from workloads import InputError

from .generate import SOURCES, RtlBlock, RtlChain, write_chain

_HARNESS = Path(__file__).parent / "harness.cpp"
_VERILATOR = ("verilator", "--cc", "--assert", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-MULTIDRIVEN")


@dataclass(frozen=True)
class RtlSimulation:
    """What left a chain, and when. Cycles are counted with both ends."""

    latency: int
    """Of an image alone: from its first word offered until its last one out."""
    interval: int
    """Between the ends of the two images before the last one, which no other image follows."""
    ends: tuple[int, ...]
    """Cycle in which the last word of each of these images left, counted from the first word offered."""
    spans: tuple[tuple[int, ...], ...]
    """Block → image → cycles from its first step to its last sums; the image alone stands first."""
    outputs: np.ndarray
    """Sums of the last block, shape (images, F, Ho, Wo), int64."""


def simulate_rtl(
    chain: RtlChain, images: np.ndarray | None = None, *, resident: bool = False, folder: Path | None = None
) -> RtlSimulation:
    """Builds and runs the chain: the first image alone, then all `images`, shape (n ≥ 3, C, H, W), back to back.

    `images` default to four random ones. `resident` holds the blocks until the whole first image is stored, so that the
    first span is that of the block alone; the buffers must have room for it. Files are written to `folder`, or to a
    temporary one. Raises `InputError` where Verilator or g++ is missing, `RuntimeError` where the hardware stalls,
    breaks an assertion or gives an image alone other sums than in a row.
    """
    if images is None:
        images = rtl_images(chain, 4)
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="shrinkboard-rtl-") as name:
            return simulate_rtl(chain, images, resident=resident, folder=Path(name))
    slowest = max(sum(block.lengths()) * block.out_height * block.out_width for block in chain.blocks)
    program = _build(chain, folder, slowest * (len(images) + 1))
    (folder / "input.bin").write_bytes(_beats(chain, images).tobytes())
    per_block = [count for block in chain.blocks for count in (sum(block.lengths()) * _windows(block), block.beats)]
    arguments = [
        chain.source_beats, chain.blocks[-1].beats, len(images), int(resident),
        4 * (slowest + chain.source_beats) + 1000, *per_block,
    ]  # fmt: skip
    done = subprocess.run(
        [program, "input.bin", "output.bin", *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the simulation failed: {(done.stdout[-200:] + done.stderr).strip()}")
    return _read(chain, len(images), done.stdout, np.fromfile(folder / "output.bin", dtype=np.uint32))


def rtl_images(chain: RtlChain, count: int, seed: int = 0) -> np.ndarray:
    """Images over the whole range of the first block's activations, shape (count, C, H, W)."""
    first = chain.blocks[0]
    shape = (count, first.channels, first.height, first.width)
    return np.random.default_rng(seed).integers(0, 1 << first.activation_bits, shape)


def rtl_reference(chain: RtlChain, images: np.ndarray) -> np.ndarray:
    """What the chain must give for `images`, shape (n, C, H, W): sums of its last block, (n, F, Ho, Wo), int64."""
    maps = images.astype(np.int64)
    for i, block in enumerate(chain.blocks):
        maps = _convolve(block, maps)
        if i + 1 < len(chain.blocks):
            maps = np.clip(maps >> block.shift, 0, (1 << chain.blocks[i + 1].activation_bits) - 1)
    return maps


def _convolve(block: RtlBlock, maps: np.ndarray) -> np.ndarray:
    pad = [(0, 0), (0, 0), (block.padding, block.padding), (block.padding, block.padding)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(maps, pad), (block.kernel, block.kernel), (2, 3))
    windows = windows[:, :, :: block.stride, :: block.stride]
    return np.einsum("nchwij,fcij->nfhw", windows, block.weights.astype(np.int64))


def _build(chain: RtlChain, folder: Path, cycles: int) -> Path:
    """Verilates and compiles the chain, which will run for about `cycles`, in `folder`; the program's path."""
    for tool in ("verilator", "g++"):
        if not shutil.which(tool):
            raise InputError(
                f"simulating the accelerator needs {tool}, which is not installed (apt install verilator g++)"
            )
    top = write_chain(chain, folder)
    made = folder / "verilated"
    shutil.rmtree(made, ignore_errors=True)
    _run([*_VERILATOR, "--top-module", chain.name, "--prefix", "Vchain", "-Mdir", made, top, *SOURCES], folder)
    # One unit behind a compiled header, optimised only for a long run: compiling takes most of the time.
    level = "-O1" if cycles > 100_000 else "-O0"
    unit = made / "simulation.cc"
    unit.write_text("".join(f'#include "{path}"\n' for path in [*sorted(made.glob("*.cpp")), _HARNESS]))
    runtime = _runtime(level)
    program = folder / "simulation"
    _run(
        [
            "g++",
            *_flags(level),
            "-I",
            runtime,
            "-I",
            made,
            "-include",
            _HEADER,
            unit,
            *runtime.glob("*.o"),
            "-o",
            program,
        ],
        folder,
    )
    return program


_HEADER = "simulation_header.h"


def _flags(level: str) -> list[str | Path]:
    include = _include_folder()
    return ["-std=c++17", "-pthread", level, "-I", include, "-I", include / "vltstd"]


@cache
def _include_folder() -> Path:
    root = subprocess.run(["verilator", "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True, check=True)
    return Path(root.stdout.strip()) / "include"


_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _runtime(level: str) -> Path:
    """A folder with Verilator's own sources as objects and its headers compiled, made once a process."""
    _folders.append(tempfile.TemporaryDirectory(prefix="shrinkboard-verilated-"))
    made = Path(_folders[-1].name)
    header = made / _HEADER
    header.write_text('#include <fstream>\n#include <vector>\n#include <type_traits>\n#include "verilated.h"\n')
    _run(["g++", *_flags(level), "-x", "c++-header", header, "-o", f"{header}.gch"], made)
    for name in ("verilated", "verilated_threads"):
        _run(["g++", *_flags(level), "-c", _include_folder() / f"{name}.cpp", "-o", made / f"{name}.o"], made)
    return made


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")


def _beats(chain: RtlChain, images: np.ndarray) -> np.ndarray:
    """The images as beats of `words` channels of one pixel, in whole 32-bit words, shape (beats, words)."""
    first = chain.blocks[0]
    groups = -(-first.channels // chain.words)
    pixels = np.zeros((images.size // first.channels, groups * chain.words), dtype=np.int64)
    pixels[:, : first.channels] = images.transpose(0, 2, 3, 1).reshape(-1, first.channels)
    return _packed(pixels.reshape(-1, chain.words), first.activation_bits)


def _packed(words: np.ndarray, bits: int) -> np.ndarray:
    """Rows of unsigned words of `bits` bits, the first in the lowest bits → rows of 32-bit words."""
    spread = (words[:, :, None] >> np.arange(bits)) & 1
    flat = spread.reshape(len(words), -1).astype(np.uint8)
    flat = np.pad(flat, [(0, 0), (0, -flat.shape[1] % 32)])
    return np.packbits(flat, axis=1, bitorder="little").view("<u4")


def _unpacked(beats: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The reverse, signed: rows of 32-bit words → shape (rows, count)."""
    spread = np.unpackbits(
        np.ascontiguousarray(beats, "<u4").view(np.uint8), axis=1, bitorder="little", count=count * bits
    )
    weights = 1 << np.arange(bits, dtype=np.int64)
    weights[-1] = -weights[-1]
    return spread.reshape(len(beats), count, bits).astype(np.int64) @ weights


def _read(chain: RtlChain, images: int, log: str, words: np.ndarray) -> RtlSimulation:
    offered_and_left = []
    first: list[list[int]] = [[] for _ in chain.blocks]
    last: list[list[int]] = [[] for _ in chain.blocks]
    for line in log.splitlines():
        what, a, b = line.split()
        if what == "image":
            offered_and_left.append((int(a), int(b)))
        else:
            (first if what == "first" else last)[int(a)].append(int(b))
    block = chain.blocks[-1]
    lanes = block.filters * block.pixels
    sums = _unpacked(words.reshape((images + 1) * block.beats, -1), lanes, block.sum_bits)
    shape = (
        images + 1,
        block.out_height,
        _windows(block) // block.out_height,
        block.groups,
        block.filters,
        block.pixels,
    )
    maps = (
        sums.reshape(shape).transpose(0, 3, 4, 1, 2, 5).reshape(images + 1, -1, block.out_height, shape[2] * shape[5])
    )
    maps = maps[:, block.position(), :, : block.out_width]
    if not np.array_equal(maps[0], maps[1]):
        raise RuntimeError("an image alone gives other sums than the same image in a row")
    start = offered_and_left[1][0]
    ends = tuple(end - start + 1 for _, end in offered_and_left[1:])
    return RtlSimulation(
        latency=offered_and_left[0][1] - offered_and_left[0][0] + 1,
        interval=ends[-2] - ends[-3],
        ends=ends,
        spans=tuple(
            tuple(end - begin + 1 for begin, end in zip(*both, strict=True)) for both in zip(first, last, strict=True)
        ),
        outputs=maps[1:],
    )


def _windows(block: RtlBlock) -> int:
    return block.out_height * -(-block.out_width // block.pixels)
