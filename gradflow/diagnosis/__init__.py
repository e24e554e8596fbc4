"""Diagnosis: what is wrong with the flow of gradients, where, why, and what helps."""

from gradflow.diagnosis.diagnose import Diagnosis, diagnose
from gradflow.diagnosis.expectation import Expected
from gradflow.diagnosis.finding import KINDS, Evidence, Finding, Remedy
from gradflow.diagnosis.ledger import Book, Entry, ledger
from gradflow.diagnosis.nonfinite import Operand, Origin, find_nonfinite

__all__ = [
    "KINDS", "Book", "Diagnosis", "Entry", "Evidence", "Expected", "Finding", "Operand", "Origin", "Remedy", "diagnose",
    "find_nonfinite", "ledger",
]  # fmt: skip
