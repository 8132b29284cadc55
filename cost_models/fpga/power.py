"""What a design draws, with an interval: P = P_board + f·Σ_r N_r·a_r·e_r, and the energy of an image, P / throughput.

N_r is what a block takes of resource r, a_r the share of the initiation interval in which its lanes step (lanes that
wait are gated, and cost nothing), e_r the energy of one busy cycle. P_board is all that the board draws with the design
loaded and waiting; the part's leakage is in it and not counted a second time. On small boards it is most of the power:
every published small-board design draws 1.6 to 1.75 W, whatever it computes. Never rank designs by the rest alone.

Two energies can be fitted to published measurements (`calibration`), by non-negative least squares: of a LUT, with the
flip-flops and wires beside it, and of a BRAM18. What no measured design uses is bounded instead:

- A DSP draws between nothing and what the LUTs draw that would multiply in its place.
- A URAM draws between nothing and what the 16 BRAM18 draw that hold as many bits.

The value takes the upper bound of both, so that no design looks better than it is known to be; the lower end of the
interval takes the lower one. The ends add to that the 95 % t interval of one more measurement, from the residuals of
the fit, cut off below at the bare board's power. Four measurements less two coefficients leave two degrees of freedom
(t = 4.3), so intervals are wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t as student

from ..base import Figure
from .calibration import CALIBRATED, Measured, modelled_design, power_measurements
from .design import Design
from .device import RESOURCES, Joules, Watts, named_fpga
from .layout import cost

CONFIDENCE = 0.95
BRAM18_IN_URAM = 16
"""288 Kib a URAM, 18 Kib a BRAM18."""
_LUT, _DSP, _BRAM, _URAM = (RESOURCES.index(name) for name in ("lut", "dsp", "bram18", "uram"))


@dataclass(frozen=True)
class Power:
    """What a design draws while images follow on one another, and what an image takes."""

    power: Figure
    """Watts."""
    energy: Figure
    """Joules."""


@dataclass(frozen=True)
class Activity:
    """Busy resources times the clock: resource-cycles a second."""

    lut: float
    bram18: float
    uram: float
    dsp: float
    dsp_luts: float
    """Of the LUTs that the DSPs save."""

    @property
    def least(self) -> np.ndarray:
        """LUTs and BRAM18 if DSPs and URAMs drew nothing, shape (2,)."""
        return np.array([self.lut, self.bram18])

    @property
    def most(self) -> np.ndarray:
        """LUTs and BRAM18 if LUTs multiplied in place of DSPs, and BRAM18 held what lies in URAMs, shape (2,)."""
        return np.array([self.lut + self.dsp_luts, self.bram18 + BRAM18_IN_URAM * self.uram])


def design_power(design: Design) -> Power:
    """Power and energy of `design`; without a value, but with the reason, where nothing was measured on its device.

    A device file with coefficients of its own (`Watts`) is taken at its word.
    """
    watts = design.device.power
    if watts.joules_per_lut_cycle is not None:
        low, value, high = _stated(watts, activity(design))
    elif design.device.name == CALIBRATED:
        low, value, high = power_model().watts(activity(design))
    else:
        reason = (
            f"no published measurement calibrates the power of {design.device.name}; whoever measures it can state "
            "joules_per_lut_cycle and joules_per_bram18_cycle under [power] in a device file of their own"
        )
        nothing = Figure(None, "modelled", reason=reason)
        return Power(nothing, nothing)
    rate = design.throughput
    return Power(
        Figure(value, "modelled", low=low, high=high),
        Figure(value / rate, "modelled", low=low / rate, high=high / rate),
    )


def activity(design: Design, throughput: float | None = None) -> Activity:
    """What is busy in `design` when it takes `throughput` images a second (by default as many as it can)."""
    share = design.utilisation * (throughput or design.throughput) / design.throughput
    busy = design.clock * share
    used = busy @ design.resources
    saved = [
        _luts_without_dsp(design, layer) - design.resources[layer, _LUT] if design.resources[layer, _DSP] else 0.0
        for layer in range(len(design.blocks))
    ]
    return Activity(
        lut=float(used[_LUT]),
        bram18=float(used[_BRAM]),
        uram=float(used[_URAM]),
        dsp=float(used[_DSP]),
        dsp_luts=float(busy @ np.maximum(saved, 0.0)),
    )


def _luts_without_dsp(design: Design, layer: int) -> float:
    twin = design.foldings[layer].model_copy(update={"multiplier": "lut"})
    return float(cost(design.blocks[layer], twin).resources[0, _LUT])


def _stated(watts: Watts, busy: Activity) -> tuple[float, float, float]:
    """Low, value and high by the coefficients of a device file."""
    board, lut, bram18 = watts.board, watts.joules_per_lut_cycle, watts.joules_per_bram18_cycle
    assert board is not None and lut is not None and bram18 is not None
    bounded = np.array([0.0, 1.0, 1.0])
    dsp, uram = watts.joules_per_dsp_cycle, watts.joules_per_uram_cycle
    total = board.value + _ends(lut) * busy.lut + _ends(bram18) * busy.bram18
    total += _ends(dsp) * busy.dsp if dsp else bounded * _ends(lut) * busy.dsp_luts
    total += _ends(uram) * busy.uram if uram else bounded * _ends(bram18) * BRAM18_IN_URAM * busy.uram
    low, value, high = (float(end) for end in total)
    return low, value, high


def _ends(joules: Joules) -> np.ndarray:
    """Low, value and high, shape (3,); all three the value where no interval is stated."""
    ends = (joules.low, joules.value, joules.high)
    return np.array([joules.value if end is None else end for end in ends])


@dataclass(frozen=True)
class EnergyFit:
    """Energies of k resources that explain n measured powers, n > k."""

    joules: np.ndarray
    """Of one busy cycle, by non-negative least squares, shape (k,)."""
    low: np.ndarray
    """Lower ends of their 95 % intervals, never negative, shape (k,)."""
    high: np.ndarray
    unconstrained: np.ndarray
    """What plain least squares finds, on which the intervals stand, shape (k,)."""
    covariance: np.ndarray
    """(XᵀX)⁻¹, shape (k, k)."""
    scatter: float
    """Residual standard deviation of plain least squares, watts."""
    freedom: int
    """n − k."""

    def predict(self, busy: np.ndarray) -> tuple[float, float, float]:
        """Low, value and high of the watts of `busy` resource-cycles a second, shape (k,).

        The value is that of the non-negative coefficients, the interval the 95 % t interval of one more measurement by
        plain least squares, widened to hold the value.
        """
        value = float(busy @ self.joules)
        centre = float(busy @ self.unconstrained)
        spread = self.scatter * np.sqrt(1.0 + busy @ self.covariance @ busy)
        reach = float(student.ppf((1 + CONFIDENCE) / 2, self.freedom) * spread)
        return min(value, centre - reach), value, max(value, centre + reach)


def fit_energies(busy: np.ndarray, watts: np.ndarray) -> EnergyFit:
    """The energies that explain `watts` (n,) by `busy` resource-cycles a second (n, k).

    Values are by non-negative least squares; intervals are 95 % t intervals from the residuals of plain least squares,
    cut off at 0 and widened to hold the value. Raises ValueError unless n > k and `busy` has rank k.
    """
    count, resources = busy.shape
    if count <= resources or np.linalg.matrix_rank(busy) < resources:
        raise ValueError(f"{count} measurements do not determine {resources} energies")
    scale = busy.max(0)  # cycles a second of LUTs and of BRAMs differ by orders of magnitude
    scaled = busy / scale
    free, *_ = np.linalg.lstsq(scaled, watts)
    residuals = watts - scaled @ free
    freedom = count - resources
    scatter = float(np.sqrt(residuals @ residuals / freedom))
    covariance = np.linalg.inv(scaled.T @ scaled)
    reach = student.ppf((1 + CONFIDENCE) / 2, freedom) * scatter * np.sqrt(np.diag(covariance))
    value = nnls(scaled, watts)[0]
    return EnergyFit(
        joules=value / scale,
        low=np.maximum(0.0, np.minimum(value, free - reach)) / scale,
        high=np.maximum(value, free + reach) / scale,
        unconstrained=free / scale,
        covariance=covariance / np.outer(scale, scale),
        scatter=scatter,
        freedom=freedom,
    )


@dataclass(frozen=True)
class PowerModel:
    """The fitted power of one board."""

    bare: float
    """Watts of the board alone: no design on it draws less."""
    idle: float
    """Watts of the board with a design loaded and waiting, the mean of those measured."""
    fit: EnergyFit
    """Energies of a busy LUT and a busy BRAM18."""

    def watts(self, busy: Activity) -> tuple[float, float, float]:
        """Low, value and high of what a design with that activity draws."""
        _, value, high = self.fit.predict(busy.most)
        low, *_ = self.fit.predict(busy.least)
        return max(self.bare, self.idle + low), self.idle + value, self.idle + high


@cache
def power_model(measured: tuple[Measured, ...] | None = None) -> PowerModel:
    """The model of the calibrated board, fitted to `measured`, three at least; by default to the published rows."""
    rows = measured or tuple(row for row in power_measurements() if row.fitted)
    board = named_fpga(CALIBRATED).power.board
    assert board is not None
    busy = np.array([measured_activity(row).most for row in rows])
    idle = float(np.mean([row.idle for row in rows]))
    watts = np.array([row.watts for row in rows])
    return PowerModel(board.value, idle, fit_energies(busy, watts - idle))


@cache
def measured_activity(measured: Measured) -> Activity:
    """What was busy in a measured design, as it is modelled, at the measured rate."""
    return activity(modelled_design(measured, named_fpga(CALIBRATED)), 1 / measured.interval)
