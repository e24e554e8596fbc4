"""The locator of non-finite values: the operation where NaN or Inf began, and what mends it."""

from gradflow.diagnosis.nonfinite.find import find_nonfinite
from gradflow.diagnosis.nonfinite.origin import Operand, Origin

__all__ = ["Operand", "Origin", "find_nonfinite"]
