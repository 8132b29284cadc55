"""FPGA devices as data: what a part offers, where each figure comes from, and how much of it a design may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from workloads import InputError

from ..device_file import read_device_file

DEVICES = Path(__file__).parent / "devices"

RESOURCES = ("lut", "ff", "dsp", "bram18", "uram")
"""Order of every resource vector. A BRAM36 counts as two BRAM18."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Stated(_Strict):
    """A figure with its source, or with the mark that it has none."""

    value: float = Field(ge=0, le=1e15)
    source: str | None = Field(default=None, min_length=1)
    unsourced: Literal[True] | None = None
    """True marks a figure that circulates without a publication behind it."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.source is None) == (self.unsourced is None):
            raise ValueError("a figure has either a source or the mark unsourced = true")
        return self


class Count(Stated):
    """A whole number of something."""

    value: int = Field(ge=0, le=10**9)


class Joules(Stated):
    """Energy of one resource in one busy cycle; `low` and `high`, where they are known, are a 95 % interval."""

    low: float | None = Field(default=None, ge=0)
    high: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both ends, low and high")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError("low must not be above value, nor value above high")
        return self


class Resources(_Strict):
    """What the programmable logic holds."""

    lut: Count
    ff: Count
    dsp: Count
    bram36: Count
    uram: Count


class Usable(_Strict):
    """Shares of the resources that a design can use before placement and routing fail."""

    lut: float = Field(default=0.7, gt=0, le=1)
    ff: float = Field(default=0.5, gt=0, le=1)
    dsp: float = Field(default=0.8, gt=0, le=1)
    bram: float = Field(default=0.8, gt=0, le=1)
    uram: float = Field(default=0.8, gt=0, le=1)


class Dram(_Strict):
    """External memory."""

    bandwidth: Stated
    """Peak, bytes a second."""
    efficiency: float = Field(default=0.7, gt=0, le=1)
    """Share of the peak that long bursts reach."""


class Watts(_Strict):
    """Power apart from what the design switches; leave out what nobody published."""

    static: Stated | None = None
    """Leakage of the configured part."""
    board: Stated | None = None
    """All that the idle board draws, the part's leakage included."""
    joules_per_lut_cycle: Joules | None = None
    """With the flip-flops and wires beside the LUT. Whoever measured a board gives it power by stating this, the next,
    and `board`."""
    joules_per_bram18_cycle: Joules | None = None
    joules_per_dsp_cycle: Joules | None = None
    """None: between nothing and what the LUTs draw that would multiply in its place."""
    joules_per_uram_cycle: Joules | None = None
    """None: between nothing and what as many bits in BRAM18 draw."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        needed = (self.board, self.joules_per_lut_cycle, self.joules_per_bram18_cycle)
        energies = (*needed[1:], self.joules_per_dsp_cycle, self.joules_per_uram_cycle)
        if any(energies) and not all(needed):
            raise ValueError("energies need board, joules_per_lut_cycle and joules_per_bram18_cycle, all three")
        return self


class FpgaDevice(_Strict):
    """One board or part: what one TOML file says. A published version of a file never changes."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    """Raised with every change of a figure."""
    summary: str
    clock: Stated
    """Hertz at which designs of this kind have run."""
    resources: Resources
    dram: Dram
    usable: Usable = Usable()
    power: Watts = Watts()

    @property
    def capacity(self) -> np.ndarray:
        """All of the part's resources in the order of `RESOURCES`, shape (5,)."""
        have = self.resources
        return np.array(
            [have.lut.value, have.ff.value, have.dsp.value, 2 * have.bram36.value, have.uram.value], dtype=np.float64
        )

    @property
    def budget(self) -> np.ndarray:
        """The usable share of `capacity`, shape (5,)."""
        share = self.usable
        return np.floor(self.capacity * [share.lut, share.ff, share.dsp, share.bram, share.uram])

    @property
    def bytes_per_cycle(self) -> float:
        """Bytes that external memory moves in one cycle of the design's clock."""
        return self.dram.efficiency * self.dram.bandwidth.value / self.clock.value


def load_fpga(path: Path) -> FpgaDevice:
    """The device that a TOML file describes; raises `InputError` with one line where it is missing or damaged.

    A file outside the catalogue cannot have the name of a device in it, whose measured power and rank are not its own.
    """
    if path == Path():
        raise InputError(
            "a device needs the path of its file, such as fpga:board.toml; see docs/fpga.md for an example"
        )
    device = read_device_file(path, FpgaDevice, "docs/fpga.md for an example")
    for what, value in (("clock", device.clock.value), ("dram.bandwidth", device.dram.bandwidth.value)):
        if value <= 0:
            raise InputError(f"device file {path}: {what} is {value:g}; it must be above 0")
    if device.name in fpga_names() and path.resolve().parent != DEVICES.resolve():
        raise InputError(
            f"device file {path}: name: {device.name!r} is a device of the catalogue; give this one a name of its own"
        )
    return device


def fpga_names() -> tuple[str, ...]:
    """Names of the devices that come with the tool."""
    return tuple(sorted(path.stem for path in DEVICES.glob("*.toml")))


def named_fpga(name: str) -> FpgaDevice:
    """One of the devices of `fpga_names`; raises `InputError` for any other name."""
    if name not in fpga_names():
        raise InputError(f"unknown FPGA device {name!r}; allowed: {', '.join(fpga_names())}")
    return load_fpga(DEVICES / f"{name}.toml")


def as_mapping(vector: np.ndarray) -> Mapping[str, float]:
    """A resource vector by name."""
    return {name: float(amount) for name, amount in zip(RESOURCES, vector, strict=True)}
