"""`frequency`: channels ranked by the cosine transform of their feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from workloads import Dense, InputError, trace

from .base import Compressed, Strategy
from .ops.channels import Scores, cut, ratios
from .ops.frequency import Spectrum, group_spectra
from .ops.groups import ChannelGroup, channel_groups
from .plan import Plan, Setting
from .space import Choice, Family, Space
from .uniform import ALIGN, KEEP

SCORES = ("energy", "count", "uniqueness")
KAPPA = (0.1, 0.25, 0.5, 0.75, 1.0)
DEFAULT_KAPPA = 0.5


class Frequency(Strategy):
    """Keeps in every group the channels whose feature maps score best in the frequency domain, at a ratio of its own.

    The maps behind the ReLUs, of 640 training images, are transformed by an orthonormal two-dimensional DCT-II. Three
    scores [our reconstruction: the source has one sentence on them]:

    - energy: of the low band, Σ_{u+v ≤ κ(H+W−2)} F²; at κ = 1 the spatial energy, by Parseval;
    - count: how many |F| exceed 5 % of the largest one of the group's channels in the same image;
    - uniqueness: 1 − the largest cosine between the channel's amplitudes |F| and another channel's.

    A group whose channels make several activations, as coupled layers do, sums their scores, each divided by its mean.
    Networks without a convolution that makes maps larger than 1×1 are refused.
    """

    name = "frequency"
    summary = "channels by the cosine transform of their feature maps"
    source = "pruning with frequency-domain features; transform, scores and κ are our reconstruction"

    def _space(self, dense: Dense, widths: frozenset[int] = frozenset(range(2, 9))) -> Space:
        _refuse_without_maps(dense)
        members = tuple(group.name for group in channel_groups(dense))
        return Space(
            choices=(
                Choice("score", SCORES, default=SCORES.index("energy")),
                Choice("kappa", KAPPA, default=KAPPA.index(DEFAULT_KAPPA)),
                ALIGN,
            ),
            families=(Family("keep", KEEP, members, default=KEEP.index(0.5)),),
            ladder_knob="keep",
        )

    def _resolve(self, dense: Dense, knobs: Mapping[str, Any]) -> Plan:
        _refuse_without_maps(dense)
        score, kappa = knobs.get("score", "energy"), float(knobs.get("kappa", DEFAULT_KAPPA))
        if score not in SCORES:
            raise InputError(f"frequency: the score is {score!r}; allowed: {', '.join(SCORES)}")
        if not 0 < kappa <= 1:
            raise InputError(f"frequency: kappa, the part of the band that counts, is {kappa}; it must lie in (0, 1]")
        settings: dict[str, Setting] = {"score": score}
        if score == "energy":  # the others look at the whole band
            settings["kappa"] = kappa
        groups = channel_groups(dense)
        keep: Mapping[str, float] = knobs.get("keep", {})
        align = int(knobs.get("align", 1))
        widths = {group.name: group.width(float(keep.get(group.name, 0.5)), align) for group in groups}
        return Plan(strategy=self.name, channels=ratios(groups, widths), settings=settings)

    def _compress(self, dense: Dense, plan: Plan) -> Compressed:
        _refuse_without_maps(dense)
        return cut(
            dense,
            plan,
            frequency_scores(dense, str(plan.settings["score"]), float(plan.settings.get("kappa", DEFAULT_KAPPA))),
        )


def frequency_scores(dense: Dense, score: str, kappa: float) -> Scores:
    """Scores of the dense network's channels: `score` is one of `SCORES`, `kappa` the band of "energy"."""
    spectra = _spectra(dense)

    def scores(module: nn.Module, group: ChannelGroup) -> np.ndarray:
        total = np.zeros(group.channels)
        for spectrum in spectra[group.name]:
            values = spectrum.energy(kappa) if score == "energy" else getattr(spectrum, score)()
            total += values / (values.mean() or 1.0)
        return total

    return scores


def _spectra(dense: Dense) -> dict[str, list[Spectrum]]:
    if "frequency_spectra" not in dense.memo:
        groups = channel_groups(dense)
        dense.memo["frequency_spectra"] = group_spectra(dense.module, groups, dense.workload, dense.splits.train)
    spectra: dict[str, list[Spectrum]] = dense.memo["frequency_spectra"]
    return spectra


def _refuse_without_maps(dense: Dense) -> None:
    network = trace(dense.module, dense.workload.example)
    if not any(row.kind == "conv" and row.out_height * row.out_width > 1 for row in network.compute_layers):
        raise InputError(
            f"frequency: no convolution of {dense.workload.name} makes maps larger than 1×1, so there is no spectrum "
            "to rank channels by; use l1 or pca_l1"
        )
