"""Learning from the dense network's outputs (Hinton et al. 2015, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads import VOID, Loss, Workload


def distillation_loss(teacher: nn.Module, workload: Workload, weight: float, temperature: float) -> Loss:
    """Loss (outputs, targets, images) = CE + weight·T²·KL(softmax(teacher/T) ‖ softmax(student/T)), void left out.

    Outputs are (N, classes) or (N, classes, H, W); the KL term is the mean over images or valid pixels. `teacher` is
    used in eval mode and not trained.
    """
    smoothing = workload.recipe.label_smoothing

    def loss(outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            guide = teacher(images)
        hard = functional.cross_entropy(outputs.float(), targets, ignore_index=VOID, label_smoothing=smoothing)
        soft = functional.kl_div(
            functional.log_softmax(outputs.float() / temperature, dim=1),
            functional.log_softmax(guide.float() / temperature, dim=1),
            reduction="none",
            log_target=True,
        ).sum(1)
        valid = targets != VOID
        return hard + weight * temperature**2 * (soft * valid).sum() / valid.sum().clamp(min=1)

    return loss
