"""The roofline of `overhead`: its limits in closed form, and its networks' sizes against published ones."""

from __future__ import annotations

import math

import pytest

from experiments.overhead.roofline import NETWORKS, Network, Product, main, ratios

ONE = Product(3, operations=1e6, inputs=200.0, weights=50.0, outputs=100.0)


def test_a_network_that_is_bound_by_memory_reads_what_is_measured_once_more():
    all_read, beside = ratios(Network((ONE,), 2), flops=math.inf, bandwidth=1.0)
    assert all_read == pytest.approx(1 + (3 * 100 + 2 * 200 + 2 * 50) / (3 * 350))
    assert beside == pytest.approx(1 + (2 * 100 + 200 + 2 * 50) / (3 * 350))


def test_a_network_that_is_bound_by_operations_hides_nothing():
    """The reductions are passes of their own: their bytes over the time of the operations."""
    all_read, _ = ratios(Network((ONE,), 4), flops=10.0, bandwidth=1e3)
    assert all_read == pytest.approx(1 + 4 * 800 / 1e3 / (3 * 1e6 / 5.0))


def test_products_without_a_weight_cost_the_instrument_nothing():
    network = Network((ONE, Product(1, 1e6, 10.0, 10.0, 10.0, measured=False)), 2)
    assert ratios(network, 1e3, 1e3) < ratios(Network((ONE,), 2), 1e3, 1e3)


def totals(name):
    products = NETWORKS[name].products
    weights = sum(p.count * p.weights for p in products if p.measured)
    return sum(p.count * p.operations for p in products), weights


def test_networks_have_their_published_sizes():
    operations, weights = totals("ResNet-50, batch 128, bfloat16")
    assert operations / 128 / 2 == pytest.approx(4.1e9, rel=0.01)  # multiply-adds, as torchvision lists it
    assert weights == pytest.approx(25.56e6 - 53_120 - 1000, rel=0.001)  # without batch norm's and the biases
    assert totals("transformer 12 x 768, 16 x 1024 tokens, bfloat16")[1] == 12 * 12 * 768**2


def test_the_table_has_a_row_a_network(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == list(NETWORKS)
