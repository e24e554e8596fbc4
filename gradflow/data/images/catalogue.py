"""What is known of the data sets that gradflow can import: files, sizes, labels and checksums.

SHA-256 of raw files are those of the uncompressed content. `digest` of a split does not depend on the order of the
examples: SHA-256 over the sorted SHA-256 of each example, its labels in the order of `classes` as single bytes, then
its image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

__all__ = [
    "CATALOGUE",
    "CIFAR10",
    "CIFAR10_CLASSES",
    "CIFAR100",
    "CIFAR100_CLASSES",
    "CIFAR100_SUPERCLASSES",
    "EMBEDDED",
    "FASHION_MNIST",
    "FASHION_MNIST_CLASSES",
    "IDX_FILES",
    "MNIST",
    "DataSetFacts",
    "RawFile",
    "SplitFacts",
]

EMBEDDED = "fashion_mnist_subset"  # ships with the package

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SUPERCLASSES = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
vehicles_1 vehicles_2
"""
_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_SUPERCLASSES = tuple(_SUPERCLASSES.split())
CIFAR100_CLASSES = tuple(_FINE_CLASSES.split())


@dataclasses.dataclass(frozen=True)
class RawFile:
    """One published file.

    Attributes:
        name: without `.gz`.
        sha256: of the uncompressed content; None where it is not known.
    """

    name: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class SplitFacts:
    """One split.

    Attributes:
        examples: how many.
        files: its raw files: images and labels for IDX, the batches in order for CIFAR.
        digest: over all its examples, see above; None where it is not known.
    """

    examples: int
    files: tuple[RawFile, ...]
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class DataSetFacts:
    """One data set.

    Attributes:
        name: in TFDS.
        title: what it is.
        format: of the raw files.
        shape: of an image: height, width, channels.
        classes: number of classes by the name of the label, in the order of the raw files.
        names: names of the classes in order, by the name of the label.
        splits: "train" and "test".
        home: where the raw files are published.
        urls: what to download, as registered with TFDS.
        archive: the published archive that holds the files, if any.
        inside: the folder inside that archive.
        source: origin and licence.
    """

    name: str
    title: str
    format: Literal["idx", "cifar"]
    shape: tuple[int, int, int]
    classes: Mapping[str, int]
    names: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, SplitFacts]
    home: str
    urls: tuple[str, ...]
    source: str
    archive: str | None = None
    inside: str = ""


def _idx(train: tuple[str, str], test: tuple[str, str], digests: tuple[str, str]) -> dict[str, SplitFacts]:
    """Lay out the four files of a data set in the format of MNIST: checksums of images and labels."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {
        split: SplitFacts(count, tuple(RawFile(f"{prefix}-{k}", s) for k, s in zip(kinds, sums, strict=True)), digest)
        for split, prefix, count, sums, digest in (
            ("train", "train", 60_000, train, digests[0]),
            ("test", "t10k", 10_000, test, digests[1]),
        )
    }


IDX_FILES = tuple(f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

MNIST = DataSetFacts(
    name="mnist",
    title="digits",
    format="idx",
    shape=(28, 28, 1),
    classes={"label": 10},
    names={"label": tuple("0123456789")},
    splits=_idx(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        (
            "3655811c0e1223700a4714a92a51f55bd215ed7dc1fa2baa4326a2b58042d82d",
            "634538fb34c5277fce98470b8b285d1e8419eb87f328da42ef1faf690d2c3911",
        ),
    ),
    home="https://storage.googleapis.com/cvdf-datasets/mnist/",
    urls=tuple(f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}" for file in IDX_FILES),
    source="MNIST (LeCun, Cortes & Burges)",
)

FASHION_MNIST = DataSetFacts(
    name="fashion_mnist",
    title="clothing",
    format="idx",
    shape=(28, 28, 1),
    classes={"label": 10},
    names={"label": FASHION_MNIST_CLASSES},
    splits=_idx(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        (
            "0c69d5cdeb902b69084012f812f066de080317bb3c64f43ca87f910d8ec86906",
            "90c92c0507755a7d443edde8297ce4d0f131e42884e2e87e7fc9b81ffe215258",
        ),
    ),
    home="https://github.com/zalandoresearch/fashion-mnist",
    urls=tuple(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}" for file in IDX_FILES),
    source="Fashion-MNIST (Xiao, Rasul & Vollgraf 2017), Copyright 2017 Zalando SE, MIT licence",
)

CIFAR10 = DataSetFacts(
    name="cifar10",
    title="photographs",
    format="cifar",
    shape=(32, 32, 3),
    classes={"label": 10},
    names={"label": CIFAR10_CLASSES},
    splits={
        "train": SplitFacts(
            50_000,
            (
                RawFile("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
                RawFile("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
                RawFile("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
                RawFile("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
                RawFile("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            ),
            "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
        ),
        "test": SplitFacts(
            10_000,
            (RawFile("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),),
            "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
        ),
    },
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    source="CIFAR-10 (Krizhevsky 2009), for research",
    archive="cifar-10-binary.tar.gz",
    inside="cifar-10-batches-bin",
)

CIFAR100 = DataSetFacts(
    name="cifar100",
    title="photographs",
    format="cifar",
    shape=(32, 32, 3),
    classes={"coarse_label": 20, "label": 100},
    names={"coarse_label": CIFAR100_SUPERCLASSES, "label": CIFAR100_CLASSES},
    splits={
        "train": SplitFacts(
            50_000, (RawFile("train.bin", "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),)
        ),
        "test": SplitFacts(
            10_000, (RawFile("test.bin", "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),)
        ),
    },
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    source="CIFAR-100 (Krizhevsky 2009), for research",
    archive="cifar-100-binary.tar.gz",
    inside="cifar-100-binary",
)

CATALOGUE: dict[str, DataSetFacts] = {facts.name: facts for facts in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)}
