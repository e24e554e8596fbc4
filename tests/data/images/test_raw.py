"""Raw files: every format that is published, and every way in which a file can be wrong, named with its way out."""

from __future__ import annotations

import dataclasses
import gzip

import numpy as np
import pytest

from gradflow.data.images.catalogue import CATALOGUE
from gradflow.data.images.raw import RawDataError, read_idx, read_split
from tests.data.images.rawfiles import idx, publish

CASES = [
    ("mnist", "plain"),
    ("fashion_mnist", "gz"),
    ("cifar10", "plain"),
    ("cifar10", "nested"),
    ("cifar10", "tar"),
    ("cifar100", "tar"),
]


@pytest.mark.parametrize("name, kind", CASES)
def test_reads_what_was_published(tmp_path, name, kind):
    published = publish(name, tmp_path, kind)
    for split, (images, labels) in published.arrays.items():
        read, classes = read_split(published.facts, split, tmp_path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, images)
        assert list(classes) == list(labels)
        for key, values in labels.items():
            np.testing.assert_array_equal(classes[key], values)


def test_a_folder_named_after_the_set_is_found(tmp_path):
    published = publish("mnist", tmp_path / "mnist", "gz")
    assert len(read_split(published.facts, "test", tmp_path)[0]) == 20


@pytest.mark.parametrize(
    "name, file, change, message",
    [
        ("mnist", "t10k-images-idx3-ubyte", lambda c: c[:-1], r"announces shape \(20, 28, 28\) but holds 15679 bytes"),
        ("mnist", "t10k-images-idx3-ubyte", lambda c: c[:9], "cut short at 9 bytes"),
        ("mnist", "t10k-labels-idx1-ubyte", lambda c: b"<html>" + c, "magic number"),
        ("mnist", "t10k-labels-idx1-ubyte", lambda c: b"", "an empty file"),
        ("mnist", "t10k-labels-idx1-ubyte", lambda c: c[:-1] + b"\x0a", "expected label 0 ... 9, got 10 at place 19"),
        ("mnist", "t10k-labels-idx1-ubyte", lambda c: c[:-1] + bytes([c[-1] ^ 1]), "expected the published content"),
        ("mnist", "t10k-images-idx3-ubyte", lambda c: idx(np.zeros(20, np.uint8)), "files were exchanged"),
        ("mnist", "t10k-labels-idx1-ubyte", lambda c: idx(np.zeros(19, np.uint8)), "files were exchanged"),
        ("cifar10", "test_batch.bin", lambda c: c[:-1], "no whole number of rows"),
        ("cifar10", "test_batch.bin", lambda c: c[:-3073], "expected 20 images of cifar10, got 19"),
        ("cifar10", "test_batch.bin", lambda c: b"\xff" + c[1:], "got 255 at place 0"),
        ("cifar10", "test_batch.bin", lambda c: c[:-1] + bytes([c[-1] ^ 1]), "expected the published content"),
        ("cifar10", "test_batch.bin", None, "test_batch.bin of cifar10 is missing"),
        ("cifar100", "test.bin", lambda c: b"\x14" + c[1:], "expected coarse_label 0 ... 19, got 20 at place 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, file, change, message):
    published = publish(name, tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    with pytest.raises(RawDataError, match=message) as caught:
        read_split(published.facts, "test", tmp_path)
    assert file in str(caught.value)
    assert any(way in str(caught.value).lower() for way in ("fetch", "--from", "exchanged", "expected 20"))


@pytest.mark.parametrize("kind, file", [("gz", "t10k-images-idx3-ubyte.gz"), ("tar", "cifar-10-binary.tar.gz")])
@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_broken_archives_are_named(tmp_path, kind, file, keep):
    published = publish("mnist" if kind == "gz" else "cifar10", tmp_path, kind)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(len(content) * keep)] or b"no archive")
    with pytest.raises(RawDataError, match=f"{file}: cannot be read .*truncated or corrupt.*fetch it again"):
        read_split(published.facts, "test", tmp_path)


def test_an_archive_without_the_batch_says_that_it_is_missing(tmp_path):
    published = publish("cifar100", tmp_path, "tar")
    renamed = dataclasses.replace(CATALOGUE["cifar10"], archive=published.facts.archive, inside=published.facts.inside)
    with pytest.raises(RawDataError, match=r"test_batch.bin of cifar10 is missing: looked for .*cifar-100-binary"):
        read_split(renamed, "test", tmp_path)


def test_files_of_another_known_set_are_recognized(tmp_path, monkeypatch):
    """MNIST and Fashion-MNIST share all file names."""
    digits, clothes = publish("mnist", tmp_path / "a"), publish("fashion_mnist", tmp_path / "b", seed=1)
    monkeypatch.setitem(CATALOGUE, "fashion_mnist", clothes.facts)
    with pytest.raises(RawDataError, match=r"this is t10k-images-idx3-ubyte of fashion_mnist. Fix: give the folder"):
        read_split(digits.facts, "test", tmp_path / "b")


def test_of_several_batches_the_bad_one_is_named(tmp_path, monkeypatch):
    published = publish("cifar10", tmp_path)
    monkeypatch.setitem(CATALOGUE, "cifar10", published.facts)
    (tmp_path / "data_batch_3.bin").write_bytes((tmp_path / "data_batch_2.bin").read_bytes())
    with pytest.raises(RawDataError, match=r"_3.bin: .* this is data_batch_2.bin of cifar10. Fix: give that file"):
        read_split(published.facts, "train", tmp_path)
    content = bytearray((tmp_path / "data_batch_3.bin").read_bytes())
    content[3073] = 10
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(RawDataError, match=r"data_batch_3.bin: expected label 0 ... 9, got 10 at place 1 ") as caught:
        read_split(published.facts, "train", tmp_path)
    assert "data_batch_1" not in str(caught.value)


def test_a_folder_that_is_none_is_said(tmp_path):
    (tmp_path / "file").touch()
    for place in ("nowhere", "file"):
        with pytest.raises(RawDataError, match=f"{place} is no folder. Fix: --from names the folder of the files"):
            read_split(CATALOGUE["mnist"], "test", tmp_path / place)


def test_idx_arrays_of_any_rank_survive():
    for shape in ((), (3,), (2, 0), (2, 3, 4)):
        array = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
        np.testing.assert_array_equal(read_idx(idx(array), "here"), array)


def test_compressed_and_plain_are_the_same(tmp_path):
    published = publish("mnist", tmp_path, "gz")
    packed = read_split(published.facts, "train", tmp_path)[0]
    for file in tmp_path.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(read_split(published.facts, "train", tmp_path)[0], packed)
