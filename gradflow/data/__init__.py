"""Real images, embedded or prepared by TFDS, and sources that draw batches from them inside a jitted step."""

from gradflow.data.augmentation import crop_and_flip, random_crop, random_flip
from gradflow.data.datasets import DATASETS, ImageDataset, Split, load
from gradflow.data.normalization import Normalization
from gradflow.data.sources import Batch, OnDevice, Source, Window, on_device

__all__ = [
    "DATASETS",
    "Batch",
    "ImageDataset",
    "Normalization",
    "OnDevice",
    "Source",
    "Split",
    "Window",
    "crop_and_flip",
    "load",
    "on_device",
    "random_crop",
    "random_flip",
]
