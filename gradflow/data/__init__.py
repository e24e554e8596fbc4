"""Real images, embedded or prepared by TFDS; sequence tasks; and sources that draw batches inside a jitted step."""

from gradflow.data import sequences
from gradflow.data.augmentation import crop_and_flip, random_crop, random_flip
from gradflow.data.images.datasets import DATASETS, ImageDataset, Split, load
from gradflow.data.normalization import Normalization
from gradflow.data.sequences import generate
from gradflow.data.sources import Batch, OnDevice, Source, Window, on_device
from gradflow.data.streams import Stream, stream

__all__ = [
    "DATASETS",
    "Batch",
    "ImageDataset",
    "Normalization",
    "OnDevice",
    "Source",
    "Split",
    "Stream",
    "Window",
    "crop_and_flip",
    "generate",
    "load",
    "on_device",
    "random_crop",
    "random_flip",
    "sequences",
    "stream",
]
