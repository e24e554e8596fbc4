"""The embedded data: intact, balanced, normalized; and the code that built it, on small IDX files."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.data.images import build_subset, datasets
from gradflow.data.images.raw import RawDataError
from tests.data.images.rawfiles import write_idx


@pytest.fixture(scope="module")
def subset():
    return gf.data.load("fashion_mnist_subset")


def test_subset_has_the_promised_shapes_and_types(subset):
    assert subset.split_sizes == {"train": 6000, "test": 1000}
    for split in (subset.train, subset.test):
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), 28, 28, 1)
        assert split.labels.dtype == np.int32
        assert split.labels.shape == (len(split),)
    assert len(subset.class_names) == 10
    assert "MIT" in subset.source


@pytest.mark.parametrize("split, count", [("train", 600), ("test", 100)])
def test_subset_is_balanced(subset, split, count):
    assert np.bincount(getattr(subset, split).labels).tolist() == [count] * 10


def test_no_test_image_is_a_training_image(subset):
    train = {image.tobytes() for image in subset.train.images}
    assert not any(image.tobytes() in train for image in subset.test.images)


def test_classes_look_like_their_names(subset):
    """Labels belong to their images: sandals are emptier than sneakers, trousers than dresses."""
    mean_image = np.stack([subset.train.images[subset.train.labels == c].mean(0)[..., 0] for c in range(10)])
    names = list(subset.class_names)
    brightness = dict(zip(names, mean_image.mean((1, 2)), strict=True))
    assert brightness["Sandal"] < brightness["Sneaker"] < brightness["Ankle boot"]
    assert brightness["Trouser"] < brightness["Dress"] < brightness["Coat"] < 2 * brightness["Dress"]


def test_normalization_is_that_of_the_training_pixels(subset):
    normalized = subset.normalize(subset.train.images)
    assert normalized.dtype == np.float32
    assert normalized.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert normalized.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    pixels = subset.train.images.astype(np.float64) / 255
    assert subset.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert subset.std == pytest.approx(pixels.std(), rel=1e-12)


def test_normalizing_twice_is_refused(subset):
    with pytest.raises(TypeError, match="expects uint8"):
        subset.normalize(subset.normalize(subset.test.images[:2]))


def test_file_is_small_enough_to_ship():
    file = Path(datasets.__file__).with_name(datasets.FASHION_MNIST_SUBSET_FILE)
    assert file.stat().st_size <= 4e6


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match=r"'fashion_mist_subset'; did you mean 'fashion_mnist_subset'"):
        gf.data.load("fashion_mist_subset")
    with pytest.raises(ValueError, match="unknown split 'tets'; did you mean 'test'"):
        gf.data.load("fashion_mnist_subset", "tets")
    with pytest.raises(ValueError, match="validation=5000"):
        gf.data.load("fashion_mnist_subset", "validation")
    with pytest.raises(ValueError, match="unknown normalization 'chanel'; did you mean 'channel'"):
        gf.data.load().normalization("chanel")


def test_one_split_lies_on_the_device(subset):
    split = gf.data.load("fashion_mnist_subset", "test")
    assert isinstance(split.images, jax.Array)
    assert (split.images.dtype, split.labels.dtype) == (jnp.uint8, jnp.int32)
    np.testing.assert_array_equal(split.images, subset.test.images)


def test_validation_images_are_taken_out_of_the_training_split(subset):
    data = gf.data.load(validation=1000, seed=3)
    assert data.split_sizes == {"train": 5000, "validation": 1000, "test": 1000}

    def examples(*splits):
        return sorted((i.tobytes(), int(c)) for s in splits for i, c in zip(s.images, s.labels, strict=True))

    assert examples(data.train, data.validation) == examples(subset.train)
    assert data.mean == pytest.approx((data.train.images / 255).mean(), rel=1e-12)
    again, other = gf.data.load(validation=1000, seed=3), gf.data.load(validation=1000, seed=4)
    np.testing.assert_array_equal(again.validation.images, data.validation.images)
    assert not np.array_equal(other.validation.images, data.validation.images)
    np.testing.assert_array_equal(
        gf.data.load("fashion_mnist_subset", "validation", validation=1000, seed=3).labels, data.validation.labels
    )
    with pytest.raises(ValueError, match=r"1 ... 5999 validation images"):
        gf.data.load(validation=6000)


@pytest.mark.parametrize("damage", ["cut short", "one pixel", "not a zip"])
def test_damaged_file_is_refused(tmp_path, monkeypatch, damage):
    original = Path(datasets.__file__).with_name(datasets.FASHION_MNIST_SUBSET_FILE)
    copy = tmp_path / original.name
    if damage == "cut short":
        copy.write_bytes(original.read_bytes()[:100_000])
    elif damage == "not a zip":
        copy.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    else:
        with np.load(original) as stored:
            arrays = dict(stored)
        arrays["train_images"][0, 0, 0] ^= 1
        np.savez(copy, **arrays)
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"should hold data with digest"):
        gf.data.load()


@pytest.fixture
def published(tmp_path):
    """Four IDX files like the published ones, images that carry their own index."""
    generator = np.random.default_rng(0)
    labels = {}
    for prefix, size, packed in (("train", 200, True), ("t10k", 100, False)):
        labels[prefix] = generator.permutation(np.arange(size) % 10).astype(np.uint8)
        images = np.zeros((size, 28, 28), np.uint8)
        images[:, 3, 5] = np.arange(size)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images, packed)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", labels[prefix], packed)
    return tmp_path, labels


def test_build_takes_the_first_of_each_class_in_file_order(published):
    folder, labels = published
    built = build_subset.build(folder, train_per_class=4, test_per_class=2)
    for split, prefix, count in (("train", "train", 4), ("test", "t10k", 2)):
        seen: dict[int, int] = {}
        expected = []
        for index, label in enumerate(labels[prefix].tolist()):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= count:
                expected.append(index)
        assert built[f"{split}_images"][:, 3, 5].tolist() == expected
        assert built[f"{split}_labels"].tolist() == labels[prefix][expected].tolist()


def test_build_refuses_a_scarce_class_and_broken_files(published):
    folder, _ = published
    with pytest.raises(ValueError, match="fewer than 11 examples"):
        build_subset.build(folder, train_per_class=4, test_per_class=11)
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(RawDataError, match="t10k-images-idx3-ubyte of fashion_mnist is missing"):
        build_subset.build(folder, train_per_class=4, test_per_class=2)


def test_command_writes_the_file_and_notices_other_data(published, tmp_path, capsys):
    folder, _ = published
    for prefix, size in (("train", 6000), ("t10k", 1000)):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{prefix}-{kind}-ubyte.gz").unlink(missing_ok=True)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", np.zeros((size, 28, 28), np.uint8), False)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (np.arange(size) % 10).astype(np.uint8), False)
    target = tmp_path / "subset.npz"
    assert build_subset.main(["--from", str(folder), "--to", str(target)]) == 1
    assert datasets.FASHION_MNIST_SUBSET_DIGEST in capsys.readouterr().err
    with np.load(target) as stored:
        assert stored["train_images"].shape == (6000, 28, 28)
