"""What every model keeps to: shapes, dtypes, transformations, gradients, determinism, checkpoints."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gradflow.models import CNN, MLP, Recurrent, ResNet
from tests.user_errors import without_type_checker

mlp = functools.partial(MLP, depth=3, width=6, outputs=4)
cnn = functools.partial(CNN, depth=3, channels=5, outputs=4)
resnet = functools.partial(ResNet, depth=8, outputs=4)
recurrent = functools.partial(Recurrent, hidden=5, outputs=4)
FLAT, IMAGES, SEQUENCES = (4, 7), (4, 6, 6, 2), (4, 5, 3)

MODELS = {
    "mlp": (mlp, {}, FLAT),
    "mlp images": (mlp, {"bias": False}, IMAGES),
    "mlp batch": (mlp, {"normalization": "batch", "residual": "plain", "activation": "tanh"}, FLAT),
    "mlp layer post": (mlp, {"normalization": "layer", "norm_position": "post", "activation": "gelu"}, FLAT),
    "mlp rms rezero": (mlp, {"normalization": "rms", "residual": "rezero", "activation": "silu"}, FLAT),
    "mlp prelu": (mlp, {"activation": "prelu", "channelwise_prelu": True}, FLAT),
    "mlp scan remat": (mlp, {"scan": True, "remat": True, "residual": "skipinit", "activation": jnp.sin}, FLAT),
    "resnet": (resnet, {}, IMAGES),
    "plain": (resnet, {"residual": False, "remat": True}, IMAGES),
    "resnet v2 B": (resnet, {"version": 2, "shortcut": "B"}, IMAGES),
    "resnet skipinit": (resnet, {"residual": "skipinit", "normalization": None, "shortcut": "B"}, IMAGES),
    "resnet fixup": (resnet, {"residual": "fixup", "normalization": None, "version": 2}, IMAGES),
    "resnet highway": (resnet, {"residual": "highway", "shortcut": "B", "activation": "tanh"}, IMAGES),
    "bottleneck": (resnet, {"depth": 11, "bottleneck": True, "version": 2}, IMAGES),
    "cnn": (cnn, {}, IMAGES),
    "cnn scan": (cnn, {"depth": 6, "scan": True, "remat": "segments", "halvings": 1, "padding": "SAME"}, IMAGES),
    "lstm": (recurrent, {"layers": 2}, SEQUENCES),
    "gru": (recurrent, {"cell": "gru"}, SEQUENCES),
    "rnn": (recurrent, {"cell": "rnn", "unroll": 2}, SEQUENCES),
    "irnn": (recurrent, {"cell": "irnn", "initializer": "glorot_uniform"}, SEQUENCES),
}
every_model = pytest.mark.parametrize("name", MODELS)


def make(name, **more):
    constructor, options, shape = MODELS[name]
    return constructor(**options, **more), jax.random.normal(jax.random.key(1), shape)


@functools.cache
def initialized(name):
    """Model, inputs, variables and the compiled function that made them: compiled once for all tests."""
    model, x = make(name)
    init = jax.jit(model.init)
    return model, x, init(jax.random.key(0), x), init


def training(model):
    return {} if isinstance(model, Recurrent) else {"train": True}


@every_model
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(name, dtype):
    model, x = make(name, dtype=dtype)

    def train(key, x):
        variables = model.init(key, x)
        logits, changed = model.apply(variables, x, **training(model), mutable=["batch_stats"])
        return variables, logits, changed

    variables, logits, changed = jax.eval_shape(train, jax.random.key(0), x)
    assert logits.shape == (4, 4)
    assert logits.dtype == dtype
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert changed == {key: tree for key, tree in variables.items() if key != "params"}
    wide = jax.eval_shape(make(name, dtype=dtype, param_dtype=jnp.bfloat16)[0].init, jax.random.key(0), x)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(wide["params"]))


@pytest.mark.quick_cases(6)
@every_model
def test_jit_agrees_with_eager_and_a_seed_with_itself(name):
    model, x, variables, init = initialized(name)
    eager, compiled = model.apply(variables, x), jax.jit(model.apply)
    np.testing.assert_allclose(eager, compiled(variables, x), rtol=1e-4, atol=1e-5)
    again = init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    np.testing.assert_array_equal(compiled(variables, x), compiled(again, x))


@pytest.mark.quick_cases(8)
@every_model
def test_examples_do_not_see_each_other_outside_training(name):
    """So vmap over examples gives what the batch gives."""
    model, x, variables, _ = initialized(name)
    one_by_one = jax.jit(jax.vmap(lambda row: model.apply(variables, row[None])[0]))(x)
    np.testing.assert_allclose(one_by_one, jax.jit(model.apply)(variables, x), rtol=1e-4, atol=1e-5)


@pytest.mark.quick_cases(5)
@every_model
def test_gradient_is_the_limit_of_differences(name):
    """In double precision; kinked activations are smooth at almost every point."""
    with jax.enable_x64(True):
        model, x = make(name, dtype=jnp.float64, param_dtype=jnp.float64)
        x = x.astype(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), x)
        params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])  # no parameter at a special point

        @jax.jit
        def loss(params):
            changed = {**variables, "params": params}
            return (model.apply(changed, x, **training(model), mutable=["batch_stats"])[0] ** 2).mean()

        check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.quick_cases(4)
@every_model
def test_a_batch_cut_over_devices_has_the_gradient_of_the_whole(name):
    """With the check of what varies over devices, which a loop's carry has to pass, too."""
    model, x, variables, _ = initialized(name)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(params, x):
        return (model.apply({**variables, "params": params}, x) ** 2).mean()

    def cut(params, x):
        return jax.lax.pmean(loss(params, x), "data")

    over_devices = jax.shard_map(jax.grad(cut), mesh=mesh, in_specs=(jax.P(), jax.P("data")), out_specs=jax.P())
    got, expected = (jax.jit(grad)(variables["params"], x) for grad in (over_devices, jax.grad(loss)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), got, expected)


@every_model
def test_variables_survive_a_checkpoint(name, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    _, _, variables, _ = initialized(name)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "variables", variables)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "variables", jax.tree.map(jnp.zeros_like, variables))
    jax.tree.map(np.testing.assert_array_equal, variables, restored)


@every_model
@without_type_checker()
def test_bad_inputs_are_named_before_anything_runs(name):
    model, x = make(name)
    with pytest.raises(TypeError, match="floating-point"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(x.shape, jnp.uint8))
    with pytest.raises(ValueError, match="batch axis"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(x.shape[-1]))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: mlp(depth=0), "at least 1"),
        (lambda: mlp(width=2.0), "at least 1"),
        (lambda: mlp(activation="rleu"), "did you mean 'relu'"),
        (lambda: mlp(initializer="he_norml"), "did you mean 'he_normal'"),
        (lambda: mlp(normalization="bacth"), "did you mean 'batch'"),
        (lambda: mlp(residual="re_zero"), "did you mean 'rezero'"),
        (lambda: mlp(residual=True), "Known: None, plain, rezero, skipinit, highway"),
        (lambda: mlp(norm_position="before"), "Known: pre, post"),
        (lambda: mlp(bias="zeroes"), "did you mean 'zeros'"),
        (lambda: resnet(depth=21), r"6n \+ 2, got 21. Fix: the nearest are 20 and 26"),
        (lambda: resnet(depth=26, bottleneck=True), r"9n \+ 2"),
        (lambda: resnet(version=3), "Known: 1, 2"),
        (lambda: resnet(shortcut="C"), "Known: A, B"),
        (lambda: resnet(residual="skip_init"), "did you mean 'skipinit'"),
        (lambda: resnet(normalization="layer"), "Known: None, batch"),
        (lambda: resnet(residual="fixup"), "Fix: normalization=None"),
        (lambda: recurrent(cell="lstn"), "did you mean 'lstm'"),
        (lambda: recurrent(hidden=0), "at least 1"),
        (lambda: recurrent(cell="gru", chrono_steps=10), "cell 'lstm'"),
        (lambda: recurrent(recurrent_initializer="orthogonl"), "did you mean 'orthogonal'"),
        (lambda: mlp(initializer="critical"), r"it sets kernel and bias together: .*bias=point.bias"),
        (lambda: mlp(initializer="lsuv"), "it looks at data"),
    ],
)
@without_type_checker()
def test_bad_options_are_named_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()
