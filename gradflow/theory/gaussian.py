"""The quadrature of `gradflow.gaussian` and an activation's averages by it, under the names that theory exports."""

from gradflow.activations import Phi, moments
from gradflow.gaussian import Moments, expectation, pair_expectation

__all__ = ["Moments", "Phi", "expectation", "moments", "pair_expectation"]
