"""Learning from the dense network: its outputs (Hinton et al. 2015) and the similarities among its features."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads import VOID, Loss, Workload

from .groups import output_layers

GRID = 16
"""Maps are averaged to at most GRID×GRID places before they are compared: all pairs of pixels would be too many."""


def distillation_loss(teacher: nn.Module, workload: Workload, weight: float, temperature: float) -> Loss:
    """Loss (outputs, targets, images) = CE + weight·T²·KL(softmax(teacher/T) ‖ softmax(student/T)), void left out.

    Outputs are (N, classes) or (N, classes, H, W); the KL term is the mean over images or valid pixels (Hinton et al.
    2015, section 2). A copy of `teacher` on the workload's device is used, in eval mode.
    """
    smoothing = workload.recipe.label_smoothing
    guide = _frozen_copy(teacher, workload)

    def loss(outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = guide(images)
        hard = functional.cross_entropy(outputs.float(), targets, ignore_index=VOID, label_smoothing=smoothing)
        soft = functional.kl_div(
            functional.log_softmax(outputs.float() / temperature, dim=1),
            functional.log_softmax(wanted.float() / temperature, dim=1),
            reduction="none",
            log_target=True,
        ).sum(1)
        valid = targets != VOID
        return hard + weight * temperature**2 * (soft * valid).sum() / valid.sum().clamp(min=1)

    return loss


class SimilarityLoss:
    """`loss` + weight · mean squared difference of the features' cosine similarities, student against teacher.

    The pair-wise term of Liu et al. (Structured Knowledge Distillation for Semantic Segmentation, CVPR 2019, section
    3.2) on the features that the output layers read: in a map all pairs of places of one image, averaged to 16×16 at
    most; in a vector all pairs of images of the batch [our reconstruction: a vector has one place]. Student and teacher
    may differ in width.

    It listens at `student`, the network in training, for as long as it exists.
    """

    def __init__(self, loss: Loss, student: nn.Module, teacher: nn.Module, workload: Workload, weight: float) -> None:
        self._loss, self._weight = loss, weight
        self._teacher = _frozen_copy(teacher, workload)
        layers = sorted(output_layers(teacher, workload.example))
        self._student_features = self._listen(student, layers)
        self._teacher_features = self._listen(self._teacher, layers)

    def __call__(self, outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            self._teacher(images)
        pairs = [(own, self._teacher_features[name]) for name, own in self._student_features.items()]
        gaps = [(similarities(own) - similarities(wanted)).square().mean() for own, wanted in pairs]
        return self._loss(outputs, targets, images) + self._weight * torch.stack(gaps).mean()

    def _listen(self, module: nn.Module, layers: list[str]) -> dict[str, Tensor]:
        """What the layers last read, kept up to date until this loss is gone."""
        seen: dict[str, Tensor] = {}

        def hook(name: str) -> None:
            handle = module.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs: seen.__setitem__(name, inputs[0])
            )
            weakref.finalize(self, handle.remove)

        for name in layers:
            hook(name)
        return seen


def similarities(features: Tensor) -> Tensor:
    """Cosines of all pairs: of places, (N, C, H, W) → (N, P, P), or of images, (N, C) → (1, N, N)."""
    if features.ndim == 4:
        grid = (min(GRID, features.shape[2]), min(GRID, features.shape[3]))
        nodes = functional.adaptive_avg_pool2d(features.float(), grid).flatten(2)
    else:
        nodes = features.float().flatten(1).T[None]
    with torch.autocast(features.device.type, enabled=False):
        nodes = functional.normalize(nodes, dim=1)
        return nodes.transpose(1, 2) @ nodes


def _frozen_copy(teacher: nn.Module, workload: Workload) -> nn.Module:
    return copy.deepcopy(teacher).eval().to(workload.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
