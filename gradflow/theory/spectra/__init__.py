"""Singular values of Jacobians: measured on any function, and predicted by free probability."""
