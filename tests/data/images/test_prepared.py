"""TFDS data sets: written from raw files so that anyone's TFDS finds them, all or nothing, and checked."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow.data import __main__ as command
from gradflow.data.images import catalogue, download, prepared
from gradflow.data.images.raw import RawDataError
from tests.data.images.rawfiles import SIZES, publish


def examples(images, labels):
    """Examples as a set, since TFDS stores them in an order of its own."""
    columns = np.stack([np.asarray(values, np.int64) for values in labels.values()], 1)
    return sorted((image.tobytes(), *row.tolist()) for image, row in zip(np.asarray(images), columns, strict=True))


def tree(folder):
    """All files below a folder with their content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return publish("mnist", tmp_path_factory.mktemp("digits"), "gz")


@pytest.fixture(scope="module")
def here(digits, tmp_path_factory):
    """A folder of TFDS data sets that holds the small MNIST."""
    folder = tmp_path_factory.mktemp("tfds")
    assert prepared.import_raw(digits.facts, digits.folder, folder)
    return folder


@pytest.mark.parametrize(
    "name, kind", [("mnist", "gz"), ("fashion_mnist", "plain"), ("cifar10", "tar"), ("cifar100", "nested")]
)
def test_an_imported_set_holds_every_example(tmp_path, name, kind):
    published = publish(name, tmp_path / "raw", kind)
    assert prepared.import_raw(published.facts, tmp_path / "raw", tmp_path / "tfds")
    built = prepared.builder(name, tmp_path / "tfds")
    assert prepared.problems(published.facts, built) == []
    for split, (images, labels) in published.arrays.items():
        assert built.info.splits[split].num_examples == SIZES[split]
        assert examples(*prepared.read(built, split)) == examples(images, labels)
    data = gf.data.load(name, folder=tmp_path / "tfds")
    assert data.train.images.shape == (SIZES["train"], *published.facts.shape)
    assert (data.train.images.dtype, data.train.labels.dtype) == (np.uint8, np.int32)
    assert data.class_names == published.facts.names["label"]
    assert [p.name for p in (tmp_path / "tfds" / name).iterdir()] == [str(built.version)], "leftovers"


def test_another_process_finds_it_by_name_without_tensorflow(here, digits):
    program = (
        "import sys, json, tensorflow_datasets as tfds\n"
        "source = tfds.data_source('mnist', split='test')\n"
        "print(json.dumps([len(source), sorted(int(e['label']) for e in source), 'tensorflow' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TFDS_DATA_DIR": str(here)}, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [20, sorted(digits.arrays["test"][1]["label"].tolist()), False]


def test_load_gives_one_split_and_holds_out(here):
    test = gf.data.load("mnist", "test", folder=here)
    assert isinstance(test.images, jax.Array)
    data = gf.data.load("mnist", folder=str(here), validation=10)
    assert data.split_sizes == {"train": 30, "validation": 10, "test": 20}
    np.testing.assert_array_equal(data.test.images, test.images)
    held_out = gf.data.load("mnist", "validation", folder=here, validation=10)
    np.testing.assert_array_equal(held_out.images, data.validation.images)
    with pytest.raises(ValueError, match="no split 'validation'; it has"):
        gf.data.load("mnist", "validation", folder=here)


def test_slices_and_unknown_splits(here):
    built = prepared.builder("mnist", here)
    assert len(prepared.records(built, "train[:25%]")) == 10
    with pytest.raises(ValueError, match="no split 'validation'; it has"):
        prepared.records(built, "validation")


def damage(published, folder):
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])


def test_bad_raw_files_leave_nothing_behind(tmp_path, digits):
    shutil.copytree(digits.folder, tmp_path / "raw")
    damage(digits, tmp_path / "raw")
    with pytest.raises(RawDataError, match="truncated"):
        prepared.import_raw(digits.facts, tmp_path / "raw", tmp_path / "tfds")
    assert not (tmp_path / "tfds").exists()


def test_a_good_copy_is_kept_even_from_bad_raw_files(tmp_path, here, digits):
    before = tree(here)
    shutil.copytree(digits.folder, tmp_path / "raw")
    damage(digits, tmp_path / "raw")
    assert not prepared.import_raw(digits.facts, tmp_path / "raw", here)
    assert tree(here) == before


@pytest.mark.parametrize("stop", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_import_that_breaks_off_leaves_nothing_behind(tmp_path, digits, stop):
    def breaks(items, total, label):
        for number, item in enumerate(items):
            if number == 30 and label.startswith("writing"):
                raise stop
            yield item

    with pytest.raises(type(stop)):
        prepared.import_raw(digits.facts, digits.folder, tmp_path, breaks)
    assert tree(tmp_path) == {}
    assert not list((tmp_path / "mnist").iterdir())
    assert prepared.import_raw(digits.facts, digits.folder, tmp_path), "it works the next time"


def test_what_a_killed_import_left_goes_with_the_next(tmp_path, digits):
    old, young = tmp_path / "mnist" / ".import-old", tmp_path / "mnist" / ".import-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "half").write_text("")
    os.utime(old, (0, 0))
    assert prepared.import_raw(digits.facts, digits.folder, tmp_path)
    assert not old.exists()
    assert young.exists(), "another import may be running"


def flip(file):
    """Change one pixel's worth of bytes in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[2000:2400] = bytes(400)
    file.write_bytes(content)


@pytest.mark.parametrize("harm", ["records", "cut short", "no records"])
def test_a_damaged_copy_is_found_and_replaced(tmp_path, here, digits, harm):
    shutil.copytree(here, tmp_path / "tfds")
    built = prepared.builder("mnist", tmp_path / "tfds")
    file = next((tmp_path / "tfds" / "mnist").rglob("mnist-train*"))
    if harm == "records":
        flip(file)
    elif harm == "cut short":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        file.unlink()
    (problem, *_) = prepared.problems(digits.facts, built)
    assert "train" in problem
    assert prepared.import_raw(digits.facts, digits.folder, tmp_path / "tfds")
    assert tree(tmp_path / "tfds").keys() == tree(here).keys()
    assert prepared.problems(digits.facts, prepared.builder("mnist", tmp_path / "tfds")) == []


def test_a_damaged_description_is_named(tmp_path, here, digits):
    shutil.copytree(here, tmp_path / "tfds")
    next((tmp_path / "tfds").rglob("dataset_info.json")).write_text('{"name": "mn')
    with pytest.raises(ValueError, match=r"dataset_info.json of mnist cannot be read .*remove its folder mnist from"):
        prepared.import_raw(digits.facts, digits.folder, tmp_path / "tfds")


def test_other_images_have_another_checksum(here, digits):
    images, labels = digits.arrays["test"]
    order = np.random.default_rng(0).permutation(len(images))
    assert prepared.digest(images[order], {"label": labels["label"][order]}) == digits.facts.splits["test"].digest
    swapped = {"label": labels["label"][::-1]}
    assert prepared.digest(images, swapped) != digits.facts.splits["test"].digest
    other = publish("mnist", digits.folder.parent / "other", seed=5)
    assert all("checksum" in problem for problem in prepared.problems(other.facts, prepared.builder("mnist", here)))


def test_a_copy_in_another_format_is_kept_and_explained(tmp_path, here, digits):
    shutil.copytree(here, tmp_path / "tfds")
    file = next((tmp_path / "tfds").rglob("dataset_info.json"))
    file.write_text(file.read_text().replace("array_record", "tfrecord"))
    before = tree(tmp_path / "tfds")
    with pytest.raises(ValueError, match="format tfrecord, which needs TensorFlow"):
        prepared.import_raw(digits.facts, digits.folder, tmp_path / "tfds")
    with pytest.raises(ValueError, match="format tfrecord, which needs TensorFlow"):
        gf.data.load("mnist", folder=tmp_path / "tfds")
    assert tree(tmp_path / "tfds") == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path, digits):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*choose another place by --data-dir"):
        prepared.import_raw(digits.facts, digits.folder, tmp_path / "file")


@pytest.mark.parametrize(
    "name, second", [("cifar100", "import cifar100 --from DIR"), ("svhn_cropped", "pip install tensorflow")]
)
def test_without_internet_both_ways_out_are_named(tmp_path, monkeypatch, name, second):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", offline)
    with pytest.raises(FileNotFoundError, match=r"on a machine with internet run .*gf.data.load") as caught:
        gf.data.load(name, folder=tmp_path)
    assert second in str(caught.value)
    assert not list(tmp_path.iterdir())


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_with_internet_load_prepares_by_itself(tmp_path, digits, monkeypatch):
    handler = functools.partial(Quiet, directory=str(digits.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = tuple(f"http://127.0.0.1:{server.server_port}/{file}" for file in catalogue.IDX_FILES)
        monkeypatch.setitem(
            catalogue.CATALOGUE, "mnist", digits.facts.__class__(**{**vars(digits.facts), "urls": urls})
        )
        data = gf.data.load("mnist", folder=tmp_path)
        server.shutdown()
    assert examples(data.test.images, {"label": data.test.labels}) == examples(*digits.arrays["test"])
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


@pytest.mark.parametrize("name", ["imdb_reviews", "oxford_iiit_pet"])
def test_only_sets_of_labelled_images_are_taken(tmp_path, name):
    """Text has no image; pets come with a segmentation mask, a second one."""
    with pytest.raises(ValueError, match="expected a data set of images with a class 'label'"):
        prepared.image_and_labels(prepared.builder(name, tmp_path))


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'cifr10'; did you mean 'cifar10'"):
        prepared.builder("cifr10")


def test_proxies_are_left_to_the_download(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    download.check_reachable("https://nowhere.invalid/file")


def run(*arguments, entries):
    return command.main([str(a) for a in arguments], entries)


def test_commands(tmp_path, digits, capsys):
    entries = {**catalogue.CATALOGUE, "mnist": digits.facts}
    run_ = functools.partial(run, entries=entries)
    place = ("--data-dir", tmp_path / "tfds")
    assert run_("check", "mnist", *place) == 1
    assert "import mnist --from DIR` makes it from raw files" in capsys.readouterr().err
    assert run_("import", "mnist", "--from", digits.folder, *place) == 0
    assert "mnist: 60 images imported and checked" in capsys.readouterr().out
    assert run_("import", "mnist", "--from", digits.folder, *place) == 0
    assert "was here already, and is intact; kept" in capsys.readouterr().out
    assert run_("check", "mnist", *place) == 0
    assert "60 images, counts, shapes, labels and checksums as published" in capsys.readouterr().out
    flip(next((tmp_path / "tfds").rglob("mnist-train*")))
    assert run_("check", "mnist", *place) == 1
    assert "train" in capsys.readouterr().out
    assert run_("list", *place) == 0
    listed = {line.split()[0]: line.split()[5] for line in capsys.readouterr().out.splitlines()[1:6]}
    assert (listed["mnist"], listed["cifar10"]) == ("yes", "no")
    assert run_("info", "cifar100", *place) == 0
    assert "willow_tree" in capsys.readouterr().out
    assert run_("info", "fashion_mnist_subset") == run_("check", "fashion_mnist_subset") == 0
    assert "7,000 images, all as published" in capsys.readouterr().out


def test_bad_usage_exits_with_2(tmp_path, capsys):
    assert run("import", "minst", "--from", tmp_path, entries=catalogue.CATALOGUE) == 2
    assert "did you mean 'mnist'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run("bogus", entries=catalogue.CATALOGUE)


def test_missing_raw_files_are_named_by_the_command(tmp_path, capsys):
    assert run("import", "cifar10", "--from", tmp_path, "--data-dir", tmp_path, entries=catalogue.CATALOGUE) == 1
    assert "data_batch_1.bin of cifar10 is missing" in capsys.readouterr().err
