"""Principal components of feature maps, streamed: how many channels a layer's outputs really span."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workloads import Split, Workload, eval_mode, normalise

SAMPLES_PER_CHANNEL = 50
"""A covariance of C channels needs several times C samples; at 50·C the widths are stable to a channel."""
_IMAGES, _PIXELS = 256, 2**23
"""Every layer sees so many images at least, for the samples of one image are alike; of large pictures fewer, as many as
have so many pixels."""
_BATCH, _PIXELS_AT_ONCE = 128, 2**19


class Covariance:
    """Streamed mean and covariance in float64: n, Σx and Σxxᵀ."""

    def __init__(self, channels: int) -> None:
        self.samples = 0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._outer = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, samples: Tensor) -> None:
        """Takes samples (n, channels)."""
        samples = samples.double()
        self.samples += len(samples)
        self._sum += samples.sum(0)
        self._outer += samples.T @ samples

    def mean(self) -> Tensor:
        """μ = Σx/n, shape (channels,)."""
        return self._sum / self.samples

    def matrix(self) -> Tensor:
        """Cov = Σxxᵀ/n − μμᵀ, shape (channels, channels)."""
        return self._outer / self.samples - torch.outer(self.mean(), self.mean())

    def eigenvalues(self) -> np.ndarray:
        """Descending and not negative, shape (channels,)."""
        return torch.linalg.eigvalsh(self.matrix()).flip(0).clamp(min=0).numpy()


def contribution_width(eigenvalues: np.ndarray, alpha: float) -> int:
    """Least k with a cumulative contribution ratio Σ_{i≤k}λ_i/Σλ ≥ alpha; `eigenvalues` (channels,) descending."""
    total = eigenvalues.sum()
    if total <= 0:
        return 1
    contribution = np.cumsum(eigenvalues) / total
    return int(min((contribution < alpha).sum() + 1, len(eigenvalues)))


def output_spectra(module: nn.Module, layers: list[str], workload: Workload, split: Split) -> dict[str, np.ndarray]:
    """Eigenvalues of the covariance of every layer's raw output (before batch norm) over un-augmented images.

    Every position of a map is one sample of C channels. A layer stops listening once it has 50·C samples of at least
    256 images (fewer of large pictures), so that narrow layers with large maps do not cost what wide ones with small
    maps need.
    """
    order = np.random.default_rng(0).permutation(len(split))
    size = _batch_size(workload)
    batches = (
        normalise(split.batch(np.sort(order[start : start + size]))[0], workload)
        for start in range(0, len(order), size)
    )
    with eval_mode(module):
        return _spectra(module, layers, workload, batches)


def noise_spectra(module: nn.Module, layers: list[str], workload: Workload, seed: int) -> dict[str, np.ndarray]:
    """As `output_spectra`, for standard normal noise in place of images and batch norm in train mode.

    It is what an untrained network makes of no data at all. `module` is left alone.
    """
    module = copy.deepcopy(module).train()
    draw = torch.Generator().manual_seed(seed)
    shape = (max(2, _batch_size(workload)), *workload.input_shape)
    return _spectra(module, layers, workload, (torch.randn(shape, generator=draw) for _ in itertools.count()))


def _batch_size(workload: Workload) -> int:
    return min(_BATCH, max(1, _PIXELS_AT_ONCE // (workload.input_shape[1] * workload.input_shape[2])))


def _spectra(
    module: nn.Module, layers: list[str], workload: Workload, batches: Iterable[Tensor]
) -> dict[str, np.ndarray]:
    """Runs the module on batches, in the modes it is in, until every layer has samples enough."""
    least = min(_IMAGES, max(1, _PIXELS // (workload.input_shape[1] * workload.input_shape[2])))
    found: dict[str, Covariance] = {}
    images_seen = 0

    def listen(name: str) -> RemovableHandle:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            channels = output.shape[1]
            covariance = found.setdefault(name, Covariance(channels))
            if images_seen < least or covariance.samples < SAMPLES_PER_CHANNEL * channels:
                covariance.add(output.detach().movedim(1, -1).reshape(-1, channels))

        return module.get_submodule(name).register_forward_hook(hook)

    def enough() -> bool:
        return images_seen >= least and all(
            covariance.samples >= SAMPLES_PER_CHANNEL * len(covariance._sum) for covariance in found.values()
        )

    handles = [listen(name) for name in layers]
    try:
        with torch.no_grad():
            for images in batches:
                module(images)
                images_seen += len(images)
                if enough():
                    break
    finally:
        for handle in handles:
            handle.remove()
    return {name: covariance.eigenvalues() for name, covariance in found.items()}
