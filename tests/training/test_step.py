"""The step against NumPy, many steps as one program, exact means, remedies, mixed precision, running averages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradflow as gf
from gradflow import training
from gradflow.training import Mean
from gradflow.training.step import draw
from tests.training import problems

IN, HIDDEN, OUT, ROWS = 5, 7, 3, 11


def images(seed=0, rows=ROWS):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, IN)).astype(np.float32), random.integers(0, OUT, rows).astype(np.int32)


def gradients(w1, b1, w2, b2, x, classes):
    """Of the mean cross-entropy of a network with one hidden layer of tanh units."""
    h = np.tanh(x @ w1 + b1)
    logits = h @ w2 + b2
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    back = (p - np.eye(OUT)[classes]) / len(x)
    below = back @ w2.T * (1 - h**2)
    return [x.T @ below, below.sum(0), h.T @ back, back.sum(0)]


def test_three_steps_are_those_of_numpy():
    """Clipping by the norm of all gradients, weight decay of kernels only, momentum, learning rate, in this order."""
    rate, momentum, decay, clip = 0.3, 0.9, 0.05, 0.2
    x, classes = images()
    model = gf.models.MLP(depth=1, width=HIDDEN, outputs=OUT, activation="tanh", initializer="xavier_normal")
    optimizer = training.with_clipping_and_decay(optax.sgd(rate, momentum=momentum), weight_decay=decay, clip_norm=clip)
    state = training.init(model, optimizer, jax.random.key(0), jnp.asarray(x))
    flat = [state.params[layer][name] for layer in ("Dense_0", "Dense_1") for name in ("kernel", "bias")]
    weights = [np.asarray(w, np.float64) for w in flat]
    velocity = [np.zeros_like(w) for w in weights]
    step = jax.jit(training.make_step(training.classification(model), optimizer))
    clipped = 0
    for _ in range(3):
        state, _ = step(state, (jnp.asarray(x), jnp.asarray(classes)))
        grads = gradients(*weights, x, classes)
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        clipped += norm > clip
        for k, g in enumerate(grads):
            g = g * min(1, clip / norm) + (decay * weights[k] if weights[k].ndim == 2 else 0)
            velocity[k] = momentum * velocity[k] + g
            weights[k] = weights[k] - rate * velocity[k]
    assert clipped
    got = [state.params[layer][name] for layer in ("Dense_0", "Dense_1") for name in ("kernel", "bias")]
    for want, have in zip(weights, got, strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 3


def test_least_squares_converges_to_its_solution():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 6)).astype(np.float32)
    y = random.normal(size=40).astype(np.float32)

    def loss(w, model_state, batch, key):
        return 0.5 * jnp.mean((batch[0] @ w - batch[1]) ** 2), ({}, model_state)

    optimizer = optax.sgd(1 / np.linalg.eigvalsh(x.T @ x / len(x)).max())
    state = training.start(jnp.zeros(6, jnp.float32), optimizer, jax.random.key(0))
    data = jnp.asarray(x), jnp.asarray(y)
    fitted = training.fit(loss, optimizer, state, lambda key, step: data, 1000, progress=False)
    np.testing.assert_allclose(fitted.state.params, np.linalg.lstsq(x, y)[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def one_by_one():
    """States and metrics of 12 steps, each a dispatch of its own."""
    step = jax.jit(lambda state: training.make_step(problems.loss_fn, problems.OPTIMIZER)(state, draw(source, state)))
    source = problems.batch
    states, losses = [problems.start()], []
    for _ in range(12):
        state, metrics = step(states[-1])
        states.append(state)
        losses.append(metrics["loss"])
    return states, losses


@pytest.mark.parametrize("every", [1, 4])
def test_many_steps_at_once_are_steps_one_by_one_to_the_bit(one_by_one, every):
    states, losses = one_by_one
    step = training.make_step(problems.loss_fn, problems.OPTIMIZER)
    state, metrics = jax.jit(lambda s: training.run(step, s, problems.batch, 12, every=every))(problems.start())
    jax.tree.map(np.testing.assert_array_equal, state.params, states[-1].params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, states[-1].opt_state)
    totals = np.array([x.total for x in losses], np.float32).reshape(-1, every)
    np.testing.assert_array_equal(metrics["loss"].count, np.full(12 // every, every * problems.BATCH))
    np.testing.assert_allclose(metrics["loss"].total, totals.sum(1), rtol=1e-6)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("with_flow", [False, True])
def test_what_is_recorded_is_the_state_before_every_record_and_after_the_last_step(one_by_one, every, with_flow):
    states, _ = one_by_one
    step, traced = training.make_step(problems.loss_fn, problems.OPTIMIZER), []
    flow_step = training.make_flow_step(problems.loss_fn, problems.OPTIMIZER) if with_flow else None

    def record(state):
        traced.append(1)
        return {"step": state.step, "params": state.params}

    def both(state):
        options = {"every": every, "flow_step": flow_step}
        plain = training.run(step, state, problems.batch, 12, **options)
        return plain, training.run(step, state, problems.batch, 12, **options, record=record)

    (state, *plain), (same, *found, recorded) = jax.jit(both)(problems.start())
    assert len(traced) == 1
    jax.tree.map(np.testing.assert_array_equal, (state.params, *plain), (same.params, *found))
    np.testing.assert_array_equal(recorded["step"], np.arange(0, 13, every))
    for k, expected in enumerate(states[::every]):
        jax.tree.map(lambda x, y, k=k: np.testing.assert_array_equal(x[k], y), recorded["params"], expected.params)


def test_a_run_of_no_steps_records_its_start():
    step = training.make_step(problems.loss_fn, problems.OPTIMIZER)
    state, metrics, steps = training.run(step, problems.start(), problems.batch, 0, record=lambda state: state.step)
    assert steps.tolist() == [0]
    assert metrics["loss"].total.shape == (0,)
    assert int(state.step) == 0


def test_runs_side_by_side_are_recorded_each_and_take_no_step_too_many():
    """The last record is followed by no steps, under `vmap` neither."""
    taken = []

    def step(state, batch):
        jax.debug.callback(lambda number: taken.append(int(number)), state.step)
        return state._replace(step=state.step + 1, params=state.params + batch), {}

    def one(start):
        state = training.start(start, optax.sgd(0.1), jax.random.key(0))
        return training.run(step, state, lambda key, step: 1.0, 4, every=2, record=lambda state: state.params)[2]

    recorded = jax.jit(jax.vmap(one))(jnp.array([0.0, 10.0], jnp.float32))
    jax.effects_barrier()
    assert recorded.tolist() == [[0, 2, 4], [10, 12, 14]]
    assert sorted(set(taken)) == [0, 1, 2, 3]


def test_every_step_has_its_own_batch_and_its_own_noise():
    def loss(w, model_state, batch, key):
        return w, ({"batch": batch, "noise": jax.random.uniform(key)}, model_state)

    step = training.make_step(loss, optax.sgd(0.1))
    state = training.start(jnp.float32(1), optax.sgd(0.1), jax.random.key(0))

    def source(key, step):
        return jax.random.uniform(jax.random.fold_in(key, step))

    _, metrics = jax.jit(lambda s: training.run(step, s, source, 20))(state)
    drawn = np.concatenate([metrics["batch"].total, metrics["noise"].total])
    assert len(set(drawn.tolist())) == 40
    other = jax.jit(lambda s: training.run(step, s, source, 20, data_key=jax.random.key(5)))(state)[1]
    np.testing.assert_array_equal(other["noise"].total, metrics["noise"].total)
    assert not set(other["batch"].total.tolist()) & set(metrics["batch"].total.tolist())


def test_run_refuses_records_that_do_not_fit():
    step = training.make_step(problems.loss_fn, problems.OPTIMIZER)
    with pytest.raises(ValueError, match="multiple of every >= 1, got steps=10, every=3"):
        training.run(step, problems.start(), problems.batch, 10, every=3)


def test_a_bad_step_is_not_taken_and_freezes_its_own_run_only():
    def loss(w, model_state, batch, key):
        return jnp.log(w), ({"loss": Mean(jnp.log(w), jnp.float32(1))}, model_state)

    def one(rate):
        optimizer = optax.sgd(rate)
        state = training.start(jnp.float32(1), optimizer, jax.random.key(0))
        return training.run(training.make_step(loss, optimizer), state, lambda key, step: step, 5, every=1)

    with jax.debug_nans(False):
        state, metrics = jax.jit(jax.vmap(one))(jnp.array([0.01, 1.5], jnp.float32))
        means = np.asarray(training.means(metrics)["loss"])
    # w = 1 - 1.5 is negative after the first step, and its logarithm the first value that is not finite.
    np.testing.assert_array_equal(state.finite, [True, False])
    np.testing.assert_array_equal(state.step, [5, 1])
    assert float(state.params[1]) == -0.5
    np.testing.assert_array_equal(metrics["loss"].count, [[1] * 5, [1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(np.isnan(means[1]), [0, 1, 1, 1, 1])


def test_adaptive_clipping_is_per_unit():
    random = np.random.default_rng(0)
    w, g = (random.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    w[:, 1] *= 1e-5
    limit, rate = 0.1, 0.5
    optimizer = training.with_clipping_and_decay(optax.sgd(rate), adaptive_clip=limit)
    updates, _ = optimizer.update({"w": jnp.asarray(g)}, optimizer.init({"w": jnp.asarray(w)}), {"w": jnp.asarray(w)})
    norm_g, norm_w = (np.sqrt((a**2).sum(0)) for a in (g, w))
    largest = limit * np.maximum(norm_w, 1e-3)
    want = -rate * np.where(norm_g > largest, g * largest / norm_g, g)
    np.testing.assert_allclose(updates["w"], want, rtol=1e-5)


def test_layers_of_a_scan_have_units_of_their_own():
    """The scanned network is clipped as the unrolled one, layer by layer; convolutions likewise."""
    random = np.random.default_rng(0)
    shapes = {"kernel": (3, 4, 5), "bias": (3, 5), "conv": (3, 2, 2, 4, 5)}
    w, g = ({k: jnp.asarray(random.normal(size=shape).astype(np.float32)) for k, shape in shapes.items()} for _ in "wg")
    stacked = training.stacked_layers(gf.models.MLP(depth=4, width=5, outputs=2, scan=True))
    optimizer = training.with_clipping_and_decay(optax.sgd(1.0), adaptive_clip=0.3, stacked=stacked)

    def update(grads, params):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    got = update({"Hidden": {"Dense": g}}, {"Hidden": {"Dense": w}})["Hidden"]["Dense"]
    for layer in range(3):
        want = update(*({"Dense": {k: x[layer] for k, x in tree.items()}} for tree in (g, w)))["Dense"]
        for name in shapes:
            np.testing.assert_allclose(got[name][layer], want[name], rtol=1e-6)
    flat = training.with_clipping_and_decay(optax.sgd(1.0), adaptive_clip=0.3)
    params = {"Hidden": {"Dense": {"kernel": w["kernel"]}}}
    other = flat.update({"Hidden": {"Dense": {"kernel": g["kernel"]}}}, flat.init(params), params)[0]
    assert np.abs(other["Hidden"]["Dense"]["kernel"] - got["kernel"]).max() > 0.1


def test_stacks_are_what_the_model_says():
    """Every stacked parameter of a scanned network, and no module of the user's that happens to be called Hidden."""
    x = jnp.ones((2, 6, 6, 3))
    for model in (
        gf.models.MLP(depth=4, width=5, outputs=2, scan=True),
        gf.models.CNN(depth=4, channels=4, outputs=2, scan=True),
    ):
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        mask = training.stacked_layers(model)(params)
        assert all(jax.tree.leaves(mask["Hidden"]))
        assert not any(jax.tree.leaves({name: tree for name, tree in mask.items() if name != "Hidden"}))
    theirs = {"Hidden": {"kernel": jnp.ones((3, 3))}}
    assert not any(jax.tree.leaves(training.stacked_layers(gf.models.MLP(depth=4, width=5, outputs=2))(theirs)))
    assert not any(jax.tree.leaves(training.stacked_layers(object())(theirs)))


def test_decay_is_for_kernels_and_embeddings():
    params = {"Dense_0": {"kernel": 1.0, "bias": 1.0}, "BatchNorm_0": {"scale": 1.0}, "Embed": {"embedding": 1.0}}
    assert training.decay_mask(params) == {
        "Dense_0": {"kernel": True, "bias": False},
        "BatchNorm_0": {"scale": False},
        "Embed": {"embedding": True},
    }
    with pytest.raises(ValueError, match="expected parameters named kernel or embedding, found none"):
        training.decay_mask({"w": 1.0})


def test_evaluation_counts_every_example_once():
    """23 rows in batches of 5: the last one is smaller, and a mean of means would be wrong."""
    model = gf.models.MLP(depth=1, width=HIDDEN, outputs=OUT, activation="tanh")
    x, classes = images(rows=23)
    state = training.init(model, optax.sgd(0.1), jax.random.key(1), jnp.asarray(x))
    loss = training.classification(model)
    metrics = jax.jit(lambda s: training.evaluate(loss, s, jnp.asarray(x), jnp.asarray(classes), 5))(state)
    logits = np.asarray(model.apply({"params": state.params}, jnp.asarray(x)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert float(metrics["accuracy"].total) == (logits.argmax(1) == classes).sum()
    assert float(metrics["accuracy"].count) == float(metrics["loss"].count) == 23
    np.testing.assert_allclose(metrics["loss"].value, -log_p[np.arange(23), classes].mean(), rtol=1e-6)
    for rows in (3, 0):
        with pytest.raises(ValueError, match=f"got {rows} inputs and"):
            training.evaluate(loss, state, jnp.asarray(x)[:rows], jnp.asarray(classes)[: rows + (rows > 0)])


class Echo:
    """A model whose outputs are its inputs."""

    def apply(self, variables, inputs, rngs=None):
        return inputs


def test_sequences_count_up_to_their_lengths():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 6, OUT)).astype(np.float32)
    classes, lengths = random.integers(0, OUT, (4, 6)).astype(np.int32), np.array([6, 1, 3, 2], np.int32)
    batch = tuple(map(jnp.asarray, (logits, classes, lengths)))
    loss, (metrics, _) = training.classification(Echo())({}, {}, batch, None)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = [-log_p[n, t, classes[n, t]] for n in range(4) for t in range(lengths[n])]
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    assert float(metrics["loss"].count) == 12
    targets = random.normal(size=logits.shape).astype(np.float32)
    loss, _ = training.regression(Echo())({}, {}, (batch[0], jnp.asarray(targets), batch[2]), None)
    each = [np.mean((logits[n, t] - targets[n, t]) ** 2) for n in range(4) for t in range(lengths[n])]
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected targets of the outputs' shape \(4, 6, 3\), got \(4, 6\)"):
        training.regression(Echo())({}, {}, (batch[0], jnp.asarray(targets[..., 0])), None)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32():
    model = gf.models.MLP(depth=2, width=HIDDEN, outputs=OUT, normalization="batch")
    optimizer = optax.sgd(0.1, momentum=0.9)
    x, classes = map(jnp.asarray, images())
    state = training.init(model, optimizer, jax.random.key(0), x)
    exact, mixed = (training.classification(model, compute_dtype=dtype) for dtype in (None, jnp.bfloat16))
    step = training.make_step(mixed, optimizer)
    text = str(jax.make_jaxpr(step)(state, (x, classes)))
    products = [line for line in text.splitlines() if "= dot_general[" in line]
    assert products
    assert all(":bf16[" in line for line in products)
    after, metrics = jax.jit(step)(state, (x, classes))
    kept = after.params, after.model_state, after.opt_state, metrics
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(kept)} == {"float32"}
    plain = jax.jit(training.make_step(exact, optimizer))(state, (x, classes))[1]
    # Rounding to 8 bits, 2^-9 each, over three layers.
    np.testing.assert_allclose(metrics["loss"].value, plain["loss"].value, rtol=0.02)
    assert float(metrics["loss"].value) != float(plain["loss"].value)
    with pytest.raises(ValueError, match="expected a module with a field `dtype`, got Echo"):
        training.classification(Echo(), compute_dtype=jnp.bfloat16)


def test_running_averages_follow_the_batches_and_evaluation_uses_them():
    model = gf.models.MLP(depth=1, width=HIDDEN, outputs=OUT, normalization="batch")
    x, classes = map(jnp.asarray, images())
    optimizer = optax.sgd(0.0)  # so that the statistics of the batch stay the same
    state = training.init(model, optimizer, jax.random.key(0), x)
    loss = training.classification(model)
    step = training.make_step(loss, optimizer)
    state, _ = jax.jit(lambda s: training.run(step, s, lambda key, step: (x, classes), 4, every=4))(state)
    dense = state.params["Dense_0"]
    h = np.asarray(x) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    averages = state.model_state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(averages["mean"], (1 - 0.9**4) * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(averages["var"], 0.9**4 + (1 - 0.9**4) * h.var(0), rtol=1e-4)
    logits = model.apply({"params": state.params, **state.model_state}, x, train=False)
    want = -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], 1).mean()
    np.testing.assert_allclose(training.evaluate(loss, state, x, classes)["loss"].value, want, rtol=1e-5)
