"""Diagnosis: what is wrong with the flow of gradients, where, and why."""

from gradflow.diagnosis.expectation import Expected
from gradflow.diagnosis.ledger import Book, Entry, ledger

__all__ = ["Book", "Entry", "Expected", "ledger"]
