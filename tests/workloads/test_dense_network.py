"""The dense network: trained once per content, read back bit for bit, and taken from a checkpoint that fits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from workloads import ArraySplit, InputError, Splits, Workload, dense, evaluate, workload
from workloads.models.resnet_mlperf_tiny import ResNet8


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_it_is_trained_once_and_read_back_bit_for_bit(classification: Workload, tmp_path: Path) -> None:
    calls: list[int] = []
    state = torch.get_rng_state()
    first = dense(classification, 3, cache_dir=tmp_path, progress=lambda done, total: calls.append(done))
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == list(range(1, 13))
    second = dense(classification, 3, cache_dir=tmp_path, progress=lambda *_: pytest.fail("trained again"))
    assert (first.digest, first.cost, first.validation) == (second.digest, second.cost, second.validation)
    assert first.cost.epochs == 3 and first.cost.seconds > 0 and first.cost.images == 240
    assert first.validation == evaluate(second.module, second.splits.validation, classification)
    assert not second.module.training and all(parameter.requires_grad for parameter in second.module.parameters())
    assert len(files(tmp_path)) == 1 and files(tmp_path)[0].suffix == ".safetensors"


def _other_data(_: Path | None) -> Splits:
    split = ArraySplit(torch.zeros(96, 3, 8, 8, dtype=torch.uint8), torch.arange(96) % 8)
    return Splits(split, split, split)


def test_another_seed_recipe_network_normalisation_or_data_is_another_training(
    classification: Workload, tmp_path: Path
) -> None:
    def with_tanh() -> torch.nn.Module:
        network = classification.build()
        network[2] = torch.nn.Tanh()
        return network

    others = [
        replace(classification, recipe=replace(classification.recipe, learning_rate=0.01)),
        replace(classification, mean=(0.0, 0.0, 0.0)),
        replace(classification, build=with_tanh),
        replace(classification, load=_other_data),
        replace(classification, name="tests/other"),
    ]
    digests = {dense(classification, seed, cache_dir=tmp_path).digest for seed in (0, 1)}
    for number, other in enumerate(others):
        digests.add(dense(other, 0, cache_dir=tmp_path).digest)
        assert len(files(tmp_path)) == 3 + number
    # The name alone changes the file, not the weights.
    assert len(digests) == 6


def test_how_it_will_be_tuned_is_no_other_training(classification: Workload, tmp_path: Path) -> None:
    first = dense(classification, 0, cache_dir=tmp_path)
    recipe = replace(classification.recipe, tune_epochs=7, tune_learning_rate=0.3)
    again = dense(
        replace(classification, recipe=recipe), 0, cache_dir=tmp_path, progress=lambda *_: pytest.fail("trained again")
    )
    assert again.digest == first.digest
    assert again.workload.recipe.tune_epochs == 7


def test_the_variable_gives_the_cache(
    classification: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "cache"))
    dense(classification, 0)
    assert len(files(tmp_path / "cache")) == 1


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-7], lambda content: b"\xff" * 50])
def test_a_damaged_cache_file_is_made_anew(damage, classification: Workload, tmp_path: Path) -> None:
    first = dense(classification, 0, cache_dir=tmp_path)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    assert dense(classification, 0, cache_dir=tmp_path).digest == first.digest
    dense(classification, 0, cache_dir=tmp_path, progress=lambda *_: pytest.fail("the file was not mended"))


def test_a_killed_run_leaves_no_file(classification: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            dense(classification, 0, cache_dir=tmp_path)
    assert files(tmp_path) == []


TRAIN_BRIEFLY = """
import sys
from dataclasses import replace
from workloads import dense, workload
digits = workload("digits/cnn")
print(dense(replace(digits, recipe=replace(digits.recipe, epochs=1)), 0, cache_dir=sys.argv[1]).digest)
"""


def test_two_processes_at_once_do_not_clash(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN_BRIEFLY, str(tmp_path)]
    root = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=120)[0] for process in running)
    assert first == second and len(first.strip()) == 64
    assert len(files(tmp_path)) == 1


def test_a_cache_that_cannot_be_made_is_one_line(classification: Workload, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="SHRINKBOARD_CACHE"):
        dense(classification, 0, cache_dir=tmp_path / "file")


# Checkpoints


def saved(weights: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "weights.safetensors"
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def test_a_checkpoint_is_taken_as_it_is(classification: Workload, tmp_path: Path) -> None:
    weights = classification.build().state_dict()
    path = saved(weights, tmp_path)
    made = dense(replace(classification, checkpoint=path), 0, cache_dir=tmp_path / "cache")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in made.module.state_dict().items())
    assert (made.cost.epochs, made.cost.seconds, made.cost.images) == (0, 0, 0)
    assert made.validation.top1 is not None and not made.module.training
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_may_lack_the_counts_of_batches(classification: Workload, tmp_path: Path) -> None:
    weights = classification.build().state_dict()
    path = saved({name: tensor for name, tensor in weights.items() if "num_batches" not in name}, tmp_path)
    dense(replace(classification, checkpoint=path), 0)


def test_keras_names_are_understood_by_resnet8(tmp_path: Path) -> None:
    from workloads.models.resnet_mlperf_tiny import _KERAS_NAMES

    torch.manual_seed(0)
    weights = ResNet8().state_dict()
    keras = {
        f"{_KERAS_NAMES[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in weights.items()
        if "num_batches" not in name
    }
    keras["conv2d.weight"] = keras["conv2d.weight"] / 255
    described = workload("cifar10/resnet8", checkpoint=saved(keras, tmp_path))
    split = ArraySplit(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4))
    made = dense(replace(described, load=lambda _: Splits(split, split, split)), 0)
    for name, tensor in made.module.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("3.bias"), r"it has no 3.bias \(16,\)"),
        (
            lambda weights: weights.update({"3.bias": torch.zeros(5)}),
            r"3.bias has shape \(5,\), the network's has \(16,\)",
        ),
        (lambda weights: weights.update(extra=torch.zeros(1)), "the network has no extra"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_first_mismatch(
    change, message: str, classification: Workload, tmp_path: Path
) -> None:
    weights = dict(classification.build().state_dict())
    change(weights)
    with pytest.raises(InputError, match=message) as caught:
        dense(replace(classification, checkpoint=saved(weights, tmp_path)), 0)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_checkpoints_are_one_line(classification: Workload, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        dense(replace(classification, checkpoint=path), 0)
    path.write_bytes(b"PK\x03\x04 no safetensors, as a pickled .pth would be")
    with pytest.raises(InputError, match="no readable safetensors file"):
        dense(replace(classification, checkpoint=path), 0)


PUBLIC = {
    "cifar10/resnet8": ("cifar10_resnet8_mlperf_tiny", 0.8719),
    "cifar10/resnet20": ("cifar10_resnet20_akamaster", 0.9173),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_checkpoints_reach_their_published_accuracy(name: str, real_data: Path) -> None:
    file, accuracy = PUBLIC[name]
    checkpoint = real_data / "checkpoints" / f"{file}.safetensors"
    if not checkpoint.is_file():
        pytest.skip(f"{checkpoint.name} is not in SHRINKBOARD_DATA")
    described = workload(name, data_dir=real_data, checkpoint=checkpoint)
    made = dense(described, 0)
    assert evaluate(made.module, made.splits.test, described).top1 == pytest.approx(accuracy, abs=5e-5)
