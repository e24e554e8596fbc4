"""Data that ships with gradflow: real images with nothing to download."""

from gradflow.data.datasets import DATASETS, ImageDataset, Split, load

__all__ = ["DATASETS", "ImageDataset", "Split", "load"]
