"""Diagnosis: what is wrong with the flow of gradients, where, why, and what helps."""

from gradflow.diagnosis.book import Book, Entry, ledger
from gradflow.diagnosis.expectation import Expected
from gradflow.diagnosis.finding import KINDS, Evidence, Finding, Remedy
from gradflow.diagnosis.nonfinite import Operand, Origin, find_nonfinite
from gradflow.diagnosis.verdict import Diagnosis, diagnose

__all__ = [
    "KINDS", "Book", "Diagnosis", "Entry", "Evidence", "Expected", "Finding", "Operand", "Origin", "Remedy", "diagnose",
    "find_nonfinite", "ledger",
]  # fmt: skip
