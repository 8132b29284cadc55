"""The cost of a network on any target from its layer table: a few features a layer, fitted to some costed networks.

A linear model of layer features with non-negative weights; measured targets cost 1 to 2 s a network, this microseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from cost_models import CostModel, Deployable, Reference
from strategies import ChannelGroup, Compressed, Plan, Strategy, channel_groups, formats_of, without
from workloads import Dense, Format, Formats, Layer, LayerFormats, Network, Progress, calibration_batches, trace

from .width_table import WidthTable

KINDS = (
    "layers",
    "MACs",
    "blocked MACs",
    "unaligned MACs",
    "unaligned maps",
    "unaligned layers",
    "patches",
    "grouped MACs",
    "weight bytes",
    "map bytes",
    "other rows",
)
"""What is counted of a row. Blocked: channels filled up to a multiple of the block; unaligned: of layers with other
numbers of channels, which runtimes take in another layout; patches are the inputs of all positions laid side by side;
grouped convolutions count apart. Found by trying on ResNet-20: unaligned rows took the error of networks that were left
out from 12 to 2 % on ONNX Runtime in fp32, from 13 to 5 % in int8, and from 4 to 2 % on OpenVINO."""
FEATURES = (*KINDS, *(f"narrow {kind}" for kind in KINDS), "bit operations")
"""Narrow: of layers that the target runs in integers or minifloats of at most 8 bits, as bit operations are too."""
BLOCKS = (8, 16)
"""Channels of a block on processors with 256-bit and with 512-bit registers; which it is, the fit decides."""
RIDGE = 1e-3
"""Of the squared weight of a feature scaled to 1 beside a squared relative error: shares what cannot be told apart."""
CALIBRATION_IMAGES = 16
"""Integer networks need ranges to be costed; their figures do not depend on them."""


@dataclass(frozen=True)
class Fit:
    """Weights of the features, and how well they foretell networks that they were not fitted to."""

    weights: np.ndarray
    """Shape (features,), in the unit of the cost; not negative."""
    error: float
    """Mean of |predicted − true| ÷ true, each network predicted from all others."""
    rank_correlation: float
    """Spearman's, of the same predictions with the truth; NaN where all cost the same."""
    block: int = BLOCKS[0]
    """One of `BLOCKS`, for which the features were counted."""


UNKNOWN = Fit(np.zeros(len(FEATURES)), np.inf, np.nan)
"""Before anything was fitted."""


def fit(features: np.ndarray, costs: np.ndarray, block: int = BLOCKS[0]) -> Fit:
    """Non-negative least squares of relative errors: `features` (N, F) summed over rows, `costs` (N,) positive."""
    others = [np.delete(np.arange(len(costs)), place) for place in range(len(costs))]
    left_out = np.array([features[place] @ _weights(features[rest], costs[rest]) for place, rest in enumerate(others)])
    return Fit(
        _weights(features, costs),
        float(np.mean(np.abs(left_out - costs) / costs)),
        float(spearmanr(left_out, costs).statistic) if np.ptp(left_out) and np.ptp(costs) else float("nan"),
        block,
    )


def _weights(features: np.ndarray, costs: np.ndarray) -> np.ndarray:
    relative = features / costs[:, None]
    scale = np.where(relative.any(0), np.abs(relative).mean(0), 1.0)
    ridge = np.sqrt(RIDGE) * np.eye(features.shape[1])
    target = np.concatenate([np.ones(len(costs)), np.zeros(features.shape[1])])
    found, _ = nnls(np.concatenate([relative / scale, ridge]), target)
    return found / scale


class Predictor:
    """Predicted cost of plans of one network on one target."""

    def __init__(
        self,
        dense: Network,
        groups: Sequence[ChannelGroup],
        executed: Callable[[Format, Format], tuple[Format, Format]],
        fit: Fit,
    ) -> None:
        """`dense` is the table of the uncut network in fp32, `groups` its own; `executed` as `CostModel.executed`."""
        self.network, self.groups, self.table = dense, tuple(groups), WidthTable(dense, groups)
        self.fit = fit
        self._executed = executed
        self._runs: dict[LayerFormats, tuple[Format, Format]] = {}

    def without(self, dense: Dense, dropped: Sequence[str]) -> Predictor:
        """The same for `dense` without these branches."""
        if not dropped:
            return self
        reduced = without(dense, dropped)
        other = copy.copy(self)
        other.network = trace(reduced.module, reduced.workload.example)
        other.groups = tuple(channel_groups(reduced)) if self.groups else ()
        other.table = WidthTable(other.network, other.groups)
        return other

    def of(self, plan: Plan) -> np.ndarray:
        """Features of one plan, (1, features)."""
        return self.features(self.widths([plan]), [formats_of(plan)])

    def cost(self, widths: np.ndarray, formats: Sequence[Formats]) -> np.ndarray:
        """Costs (N,) at widths (N, groups) and number formats, N of them or one for all."""
        return self.features(widths, formats) @ self.fit.weights

    def plans(self, plans: Sequence[Plan]) -> np.ndarray:
        """Costs (N,) of plans."""
        return self.cost(self.widths(plans), [formats_of(plan) for plan in plans])

    def widths(self, plans: Sequence[Plan]) -> np.ndarray:
        """Widths (N, groups) of plans; a group that a plan does not name is uncut."""
        ratios = [[plan.channels.get(group.name, 1.0) for group in self.groups] for plan in plans]
        return np.rint(np.array(ratios).reshape(len(plans), len(self.groups)) * self.table.dense)

    @property
    def runs(self) -> dict[str, str]:
        """Formats that were asked for so far → those that are run, weights/activations both."""
        return {
            f"{asked.weight}/{asked.activation}": "/".join(map(str, executed)) for asked, executed in self._runs.items()
        }

    def features(self, widths: np.ndarray, formats: Sequence[Formats]) -> np.ndarray:
        """`FEATURES` summed over the rows, (N, features)."""
        inputs, outputs = self.table.channels(widths)
        runs = [[self._run(form.get(row.name.partition("#")[0])) for row in self.network.layers] for form in formats]
        weight_bits = np.array([[weight.bits for weight, _ in row] for row in runs])
        activation_bits = np.array([[activation.bits for _, activation in row] for row in runs])
        narrow = np.array(
            [[_is_narrow(weight) and _is_narrow(activation) for weight, activation in row] for row in runs]
        )
        rows = row_features(self.network, inputs, outputs, weight_bits, activation_bits, narrow, self.fit.block)
        return rows.sum(1)

    def _run(self, asked: LayerFormats | None) -> tuple[Format, Format]:
        asked = asked or LayerFormats()
        if asked not in self._runs:
            self._runs[asked] = self._executed(asked.weight, asked.activation)
        return self._runs[asked]


def fitted(
    dense: Dense,
    groups: Sequence[ChannelGroup],
    strategy: Strategy,
    plans: Sequence[Plan],
    model: CostModel,
    reference: Reference,
    progress: Progress | None = None,
) -> Predictor:
    """A predictor fitted to the costs of these plans of a strategy (`costs_of`); some ten, unlike each other."""
    network = trace(dense.module, dense.workload.example)
    predictor = Predictor(network, groups, model.executed, UNKNOWN)
    costs = costs_of(dense, strategy, plans, model, reference, progress)
    own, found = [predictor.without(dense, plan.dropped) for plan in plans], []
    for block in BLOCKS:
        for each in own:
            each.fit = replace(UNKNOWN, block=block)
        features = np.concatenate([each.of(plan) for each, plan in zip(own, plans, strict=True)])
        found.append(fit(features, costs, block))
    predictor.fit = min(found, key=lambda one: one.error)
    return predictor


def frozen_by(model: CostModel, dense: Dense) -> Reference:
    """The dense network frozen on a target, which takes some seconds where it is measured."""
    return model.freeze(_deployable(dense, Compressed(dense.module, Plan(strategy="dense"), dense.seed)))


def costs_of(
    dense: Dense,
    strategy: Strategy,
    plans: Sequence[Plan],
    model: CostModel,
    reference: Reference,
    progress: Progress | None = None,
) -> np.ndarray:
    """The model's objective for plans of a strategy, made and costed: (plans,).

    `reference` is the frozen dense network. Raises `InputError` where the target cannot take one of the networks.
    """
    reference = Reference(reference.deployable, reference.latency)  # its throughput would be measured in vain
    costs = []
    for done, plan in enumerate(plans, 1):
        figure = model.cost(_deployable(dense, strategy.compress(dense, plan)), reference).figures[model.objective]
        if figure.value is None:
            raise ValueError(f"target {model.name} gives no {model.objective}: {figure.reason}")
        costs.append(figure.value)
        if progress:
            progress(done, len(plans))
    return np.array(costs)


def row_features(
    network: Network,
    inputs: np.ndarray,
    outputs: np.ndarray,
    weight_bits: np.ndarray,
    activation_bits: np.ndarray,
    narrow: np.ndarray,
    block: int,
) -> np.ndarray:
    """`FEATURES` of every row, (N, rows, features); `block` is one of `BLOCKS`.

    All arrays are (N, rows), or (1, rows) for all alike: channels and formats in the place of those of the table.
    """

    def each(value: Callable[[Layer], float]) -> np.ndarray:
        return np.array([value(row) for row in network.layers], dtype=float)

    weighted = each(lambda row: row.kind in ("conv", "linear"))
    other = each(lambda row: row.kind not in ("conv", "linear", "input"))
    grouped = each(lambda row: row.groups > 1)
    depthwise = each(lambda row: 1 < row.groups == row.in_channels == row.out_channels) == 1
    area = each(lambda row: row.kernel[0] * row.kernel[1]) * weighted
    positions = each(lambda row: row.macs / row.weights if row.weights else 0)
    maps_in = inputs * each(lambda row: row.in_height * row.in_width)
    maps_out = outputs * each(lambda row: row.out_height * row.out_width)
    weights = outputs * inputs / np.where(depthwise, inputs, each(lambda row: row.groups)) * area
    macs = weights * positions
    blocks = np.ceil(outputs / block) * np.ceil(inputs / block)
    odd_in, odd_out = inputs % block > 0, outputs % block > 0
    unaligned = (odd_in | odd_out) * weighted
    kinds = np.stack(
        np.broadcast_arrays(
            weighted,
            macs * (1 - grouped),
            blocks * block**2 * area * positions * (1 - grouped),
            macs * unaligned,
            (maps_in * odd_in + maps_out * odd_out) * weighted,
            unaligned,
            inputs * area * positions,
            macs * grouped,
            weights * weight_bits / 8,
            (maps_in + maps_out) * (weighted + other) * activation_bits / 8,
            other,
        ),
        axis=-1,
    )
    operations = macs * weight_bits * activation_bits * narrow
    narrow = np.broadcast_to(narrow, operations.shape)[..., None]
    return np.concatenate([kinds * ~narrow, kinds * narrow, operations[..., None]], axis=-1)


def _is_narrow(form: Format) -> bool:
    return form.kind in ("int", "minifloat") and form.bits <= 8


def _deployable(dense: Dense, compressed: Compressed) -> Deployable:
    calibration = calibration_batches(dense.workload, dense.splits.train, CALIBRATION_IMAGES, CALIBRATION_IMAGES)
    network = trace(compressed.module, dense.workload.example, compressed.formats, compressed.nonzeros())
    return Deployable(compressed.deployed(calibration), calibration[0][:1].contiguous(), calibration, network)
