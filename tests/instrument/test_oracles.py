"""Every statistic of every layer against explicit zero perturbations and NumPy, on the structures that models have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf
from tests import oracles


def plain(name, contraction, x):
    """What a probe is replaced by when the instrument looks."""
    del name
    return contraction(x)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def check(loss, params, *args, names=None, weights=None):
    """Compare all statistics of all probed layers of `loss(probe, params, *args)`."""
    run = jax.jit(gf.value_grad_and_flow(lambda p, *a: loss(plain, p, *a)))
    value, grads, flow = run(params, *args)
    oracles.assert_same_gradients(lambda p, *a: loss(plain, p, *a), value, grads, params, *args)
    records = oracles.probed(loss, params, *args)
    names = names or {n: n for n in records}
    for name, record in records.items():
        oracles.assert_layer(flow[names[name]], oracles.statistics(record))
    for name, (weight, grad) in (weights or {}).items():
        oracles.assert_weight(flow[name], weight(params), grad(grads))
    return flow


def test_mlp():
    params = {f"Dense_{i}": {"kernel": normal(i, 12, 12) / 3, "bias": normal(9 + i, 12) / 9} for i in range(4)}

    def loss(probe, params, x):
        for name, layer in params.items():
            x = jax.nn.relu(probe(name, lambda x, w=layer["kernel"]: x @ w, x) + layer["bias"] - 0.5)
        return jnp.mean(x**2)

    flow = check(
        loss,
        params,
        normal(99, 16, 12),
        weights={f"Dense_{i}": (lambda p, i=i: p[f"Dense_{i}"]["kernel"],) * 2 for i in range(4)},
    )
    assert flow.layers == tuple(params)
    assert float(flow["Dense_3"].zero_grad_fraction) > 0.1  # else the test of zeros would say nothing


def test_dead_units_and_identical_examples():
    params = {"a": {"w": normal(0, 5, 8)}, "b": {"w": normal(1, 8, 3)}}
    alive = jnp.arange(8) >= 3

    def loss(probe, params, x):
        h = probe("a", lambda x: x @ params["a"]["w"], x)
        y = probe("b", lambda h: h @ params["b"]["w"], jnp.where(alive, h, 0.0))
        return jnp.sum(y**2)

    flow = check(loss, params, jnp.ones((6, 5)) * jnp.arange(1.0, 7)[:, None])
    assert float(flow["a"].dead_fraction) == pytest.approx(3 / 8)
    assert float(flow["a"].similarity) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(rank, groups):
    letters = "DHW"[:rank]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    size = (6,) * rank if rank < 3 else (4,) * 3
    params = {
        "Conv_0": {"kernel": normal(0, *(3,) * rank, 4 // groups, 6) / 3},
        "Conv_1": {"kernel": normal(1, *(3,) * rank, 6 // groups, 4) / 3},
    }

    def conv(kernel, stride):
        return lambda x: lax.conv_general_dilated(
            x, kernel, (stride,) * rank, "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def loss(probe, params, x):
        x = jax.nn.relu(probe("Conv_0", conv(params["Conv_0"]["kernel"], 1), x))
        x = probe("Conv_1", conv(params["Conv_1"]["kernel"], 2), x)
        return jnp.mean(jnp.tanh(x) ** 2)

    check(loss, params, normal(5, 3, *size, 4), weights={"Conv_0": (lambda p: p["Conv_0"]["kernel"],) * 2})


def test_channels_first_convolution():
    params = {"Conv_0": {"kernel": normal(0, 5, 3, 3, 3)}}

    def loss(probe, params, x):
        y = probe(
            "Conv_0",
            lambda x: lax.conv_general_dilated(
                x, params["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
            ),
            x,
        )
        return jnp.mean(jax.nn.relu(y - 3.0) ** 2)

    x = normal(1, 4, 3, 6, 6)
    _, _, flow = jax.jit(gf.value_grad_and_flow(lambda p, x: loss(plain, p, x)))(params, x)
    record = oracles.probed(loss, params, x)["Conv_0"]
    oracles.assert_layer(flow["Conv_0"], oracles.statistics(record, unit_axes=(1,)))


def test_residual_branches_report_their_own_contribution():
    params = {f"block_{i}": {"w": normal(i, 7, 7) / 3} for i in range(3)}

    def loss(probe, params, x):
        for name, layer in params.items():
            x = x + probe(name, lambda x, w=layer["w"]: x @ w, jnp.tanh(x))
        return jnp.mean(x**2)

    check(loss, params, normal(7, 5, 7))


def test_einsum_and_vmapped_layers():
    params = {"mix": {"w": normal(0, 3, 4, 5)}, "dense": {"w": normal(1, 5, 2)}}

    def loss(probe, params, x):
        y = probe("mix", lambda x: jnp.einsum("bhi,hio->bho", x, params["mix"]["w"]), x)
        z = jax.vmap(jax.vmap(lambda v: v @ params["dense"]["w"]))(jnp.tanh(y))
        return jnp.mean(z**2)

    x = normal(2, 6, 3, 4)
    _, grads, flow = jax.jit(gf.value_grad_and_flow(lambda p, x: loss(plain, p, x)))(params, x)
    record = oracles.probed(loss, params, x)["mix"]
    oracles.assert_layer(flow["mix"], oracles.statistics(record))
    oracles.assert_weight(flow["dense"], params["dense"]["w"], grads["dense"]["w"])
    assert flow["dense"].shape[-1] == 2
    assert flow["dense"].shape[0] == 6


def test_loss_vmapped_over_examples():
    params = {"a": {"w": normal(0, 4, 6)}, "b": {"w": normal(1, 6)}}

    def single(params, x):
        return jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]

    def loss(params, x):
        return jnp.mean(jax.vmap(single, (None, 0))(params, x) ** 2)

    def batched(probe, params, x):
        h = jnp.tanh(probe("a", lambda x: x @ params["a"]["w"], x))
        return jnp.mean(probe("b", lambda h: h @ params["b"]["w"], h) ** 2)

    x = normal(2, 9, 4)
    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    records = oracles.probed(batched, params, x)
    oracles.assert_layer(flow["a"], oracles.statistics(records["a"]))
    expected = oracles.statistics({k: v[:, None] if v.ndim == 1 else v for k, v in records["b"].items()})
    oracles.assert_layer(flow["b"], expected)


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("unroll", [1, 3])
@pytest.mark.parametrize("remat", [False, True])
def test_recurrent_scan(reverse, unroll, remat):
    """One row a time step, weights shared over time, dL/dh_t counting every use of h_t."""
    params = {"cell": {"input": normal(0, 3, 5), "hidden": normal(1, 5, 5) / 2}}
    x = normal(2, 6, 4, 3)

    def step(params, h, row):
        h = jnp.tanh(row @ params["cell"]["input"] + h @ params["cell"]["hidden"])
        return h, h

    def loss(params, x):
        body = jax.checkpoint(step) if remat else step
        h, hs = lax.scan(lambda h, row: body(params, h, row), jnp.zeros((4, 5)), x, reverse=reverse, unroll=unroll)
        return jnp.mean(h**2) + jnp.mean(hs**3)

    def unrolled(probe, params, x):
        h, hs = jnp.zeros((4, 5)), []
        for t in reversed(range(6)) if reverse else range(6):
            a = probe(f"input {t}", lambda r: r @ params["cell"]["input"], x[t])
            b = probe(f"hidden {t}", lambda h: h @ params["cell"]["hidden"], h)
            h = probe(f"carry {t}", lambda v: v * 1.0, jnp.tanh(a + b))
            hs.append(h)
        return jnp.mean(h**2) + jnp.mean(jnp.stack(hs) ** 3)

    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    records = {n: oracles.statistics(r) for n, r in oracles.probed(unrolled, params, x).items()}
    assert flow.layers == ("cell/input", "cell/hidden")
    assert flow.carries == ("cell/h",)
    for field in oracles.FIELDS:
        for name, probe in (("cell/input", "input"), ("cell/hidden", "hidden"), ("cell/h", "carry")):
            if name == "cell/h" and field.startswith("input_"):
                continue
            want = [records[f"{probe} {t}"][field] for t in range(6)]
            np.testing.assert_allclose(
                getattr(flow[name], field), want, rtol=5e-5, atol=1e-6, err_msg=f"{name}.{field}"
            )
    oracles.assert_weight(flow["cell/hidden"], params["cell"]["hidden"], grads["cell"]["hidden"])


def test_lstm_carries():
    """dL/dc_t counts the path through h_t = o tanh(c_t) of the same step, and the one to the next step."""
    params = {"lstm": {"wi": normal(0, 3, 16) / 2, "wh": normal(1, 4, 16) / 2}}
    x = normal(2, 5, 2, 3)

    def step(gates, c):
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        return jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g), o

    def loss(params, x):
        def body(carry, row):
            c, h = carry
            c, o = step(row @ params["lstm"]["wi"] + h @ params["lstm"]["wh"], c)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        (_, h), _ = lax.scan(body, (jnp.zeros((2, 4)), jnp.zeros((2, 4))), x)
        return jnp.sum(h**2)

    def unrolled(probe, params, x):
        c = h = jnp.zeros((2, 4))
        for t in range(5):
            gates = probe(f"wi {t}", lambda r: r @ params["lstm"]["wi"], x[t])
            gates += probe(f"wh {t}", lambda h: h @ params["lstm"]["wh"], h)
            c, o = step(gates, c)
            c = probe(f"c {t}", lambda v: v * 1.0, c)
            h = probe(f"h {t}", lambda v: v * 1.0, jax.nn.sigmoid(o) * jnp.tanh(c))
        return jnp.sum(h**2)

    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    records = {n: oracles.statistics(r) for n, r in oracles.probed(unrolled, params, x).items()}
    for name, probe in (("lstm/wi", "wi"), ("lstm/wh", "wh"), ("lstm/c", "c"), ("lstm/h", "h")):
        want = [records[f"{probe} {t}"]["output_grad_rms"] for t in range(5)]
        np.testing.assert_allclose(flow[name].output_grad_rms, want, rtol=5e-5, err_msg=name)


def test_scan_over_layers_with_remat_and_policy():
    """Stacked weights: rows are layers, also of the weight statistics."""
    params = {"layers": {"w": normal(0, 5, 6, 6) / 2}, "out": {"w": normal(1, 6, 2)}}

    def loss(params, x):
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        body = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None), policy=policy)
        h, _ = lax.scan(body, x, params["layers"]["w"])
        return jnp.mean((h @ params["out"]["w"]) ** 2)

    def unrolled(probe, params, x):
        for i in range(5):
            x = jnp.tanh(probe(str(i), lambda x, i=i: x @ params["layers"]["w"][i], x))
        return jnp.mean((x @ params["out"]["w"]) ** 2)

    x = normal(2, 4, 6)
    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    oracles.assert_same_gradients(loss, value, grads, params, x)
    records = {n: oracles.statistics(r) for n, r in oracles.probed(unrolled, params, x).items()}
    for field in oracles.FIELDS:
        want = [records[str(i)][field] for i in range(5)]
        np.testing.assert_allclose(getattr(flow["layers"], field), want, rtol=5e-5, atol=1e-6, err_msg=field)
    for i in range(5):
        np.testing.assert_allclose(flow["layers"].weight_rms[i], oracles.rms(params["layers"]["w"][i]), rtol=1e-5)
        norm = np.linalg.norm(np.asarray(grads["layers"]["w"][i]))
        np.testing.assert_allclose(flow["layers"].weight_grad_norm[i], norm, rtol=1e-5)


def test_nested_scans_give_both_axes():
    params = {"cell": {"w": normal(0, 4, 4) / 2}}
    x = normal(1, 3, 5, 2, 4)

    def loss(params, x):
        def outer(h, rows):
            return lax.scan(lambda h, row: (jnp.tanh(h @ params["cell"]["w"] + row), None), h, rows)[0], None

        return jnp.mean(lax.scan(outer, jnp.zeros((2, 4)), x)[0] ** 2)

    def unrolled(probe, params, x):
        h = jnp.zeros((2, 4))
        for i in range(3):
            for j in range(5):
                h = jnp.tanh(probe(f"{i} {j}", lambda h: h @ params["cell"]["w"], h) + x[i, j])
        return jnp.mean(h**2)

    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    records = {n: oracles.statistics(r) for n, r in oracles.probed(unrolled, params, x).items()}
    want = [[records[f"{i} {j}"]["output_grad_rms"] for j in range(5)] for i in range(3)]
    np.testing.assert_allclose(flow["cell"].output_grad_rms, want, rtol=5e-5)


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_only_the_branch_taken_counts(branch):
    params = {"a": {"w": normal(0, 4, 4)}, "b": {"w": normal(1, 4, 4)}, "top": {"w": normal(2, 4, 1)}}

    def loss(params, x, index):
        branches = [
            lambda x: jnp.tanh(x @ params["a"]["w"]),
            lambda x: jax.nn.relu(x @ params["b"]["w"]),
            lambda x: x * 2.0,
        ]
        return jnp.mean((lax.switch(index, branches, x) @ params["top"]["w"]) ** 2)

    def taken(probe, params, x):
        if branch == 0:
            x = jnp.tanh(probe("a", lambda x: x @ params["a"]["w"], x))
        elif branch == 1:
            x = jax.nn.relu(probe("b", lambda x: x @ params["b"]["w"], x))
        else:
            x = x * 2.0
        return jnp.mean(probe("top", lambda x: x @ params["top"]["w"], x) ** 2)

    x = normal(3, 5, 4)
    value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x, branch)
    oracles.assert_same_gradients(loss, value, grads, params, x, branch)
    for name, record in oracles.probed(taken, params, x).items():
        oracles.assert_layer(flow[name], oracles.statistics(record))
    for name, number in (("a", 0), ("b", 1)):
        assert float(flow[name].calls) == float(number == branch)
        if number != branch:
            assert np.isnan(flow[name].output_grad_rms)
            assert np.isnan(flow[name].output_rms)
            assert flow[name].remark("output_rms") == flow[name].remark("output_grad_rms") == "did not run"


def test_vmap_over_seeds_adds_an_axis():
    params = {"a": {"w": normal(0, 3, 4, 5)}, "b": {"w": normal(1, 3, 5, 2)}}
    x = normal(2, 6, 4)

    def loss(params, x):
        return jnp.mean((jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]) ** 2)

    run = gf.value_grad_and_flow(loss)
    _, _, flow = jax.jit(jax.vmap(run, in_axes=(0, None)))(params, x)
    for seed in range(3):
        _, _, single = jax.jit(run)(jax.tree.map(lambda p, s=seed: p[s], params), x)
        for name in flow:
            for field in (*oracles.FIELDS, "weight_rms", "weight_grad_norm"):
                got, want = getattr(flow[name], field), getattr(single[name], field)
                assert got.shape == (3,)
                np.testing.assert_allclose(got[seed], want, rtol=1e-4, atol=1e-6)


def test_embedding():
    params = {"embed": {"table": normal(0, 11, 6)}, "out": {"w": normal(1, 6, 3)}}
    tokens = jax.random.randint(jax.random.key(2), (4, 7), 0, 11)

    def loss(probe, params, tokens):
        y = probe("embed", lambda _: params["embed"]["table"][tokens], jnp.zeros(()))
        return jnp.mean(probe("out", lambda y: y @ params["out"]["w"], jnp.tanh(y)) ** 2)

    _, _, flow = jax.jit(gf.value_grad_and_flow(lambda p, t: loss(plain, p, t)))(params, tokens)
    records = oracles.probed(loss, params, tokens)
    expected = oracles.statistics(records["embed"])
    assert flow["embed"].kind == "embedding"
    oracles.assert_layer(flow["embed"], {k: v for k, v in expected.items() if not k.startswith("input_")})
    assert np.isnan(flow["embed"].input_rms)
    oracles.assert_layer(flow["out"], oracles.statistics(records["out"]))


def test_hand_tap_reports_all_uses():
    params = {"a": {"w": normal(0, 4, 4)}}

    def loss(params, x):
        h = gf.tap("stream", jnp.tanh(x @ params["a"]["w"]))
        return jnp.mean(h**2) + jnp.sum(h**3)

    def probed(probe, params, x):
        h = probe("stream", lambda v: v * 1.0, jnp.tanh(x @ params["a"]["w"]))
        return jnp.mean(h**2) + jnp.sum(h**3)

    x = normal(1, 5, 4)
    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params, x)
    assert flow.taps == ("stream",)
    expected = oracles.statistics(oracles.probed(probed, params, x)["stream"])
    oracles.assert_layer(flow["stream"], {k: v for k, v in expected.items() if not k.startswith("input_")})
