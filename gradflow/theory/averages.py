"""The averages of `gradflow.averages`, under the name that theory knows them by."""

from gradflow.averages import LARGEST, SMALLEST, Averages, Phi, in_range, of

__all__ = ["LARGEST", "SMALLEST", "Averages", "Phi", "in_range", "of"]
