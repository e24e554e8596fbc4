"""Sources: one contract for data on the device, generated data and streams; exact epochs; what happens in the step."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.stats import chi2

import gradflow as gf
from gradflow.data import sequences
from gradflow.data.shuffling import SMALL, epoch_order, permuted

KEY = jax.random.key(0)
COUNT, BATCH = 10, 4  # so that epochs end inside a batch


def images(count=COUNT, size=6, channels=3):
    return np.random.default_rng(1).integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def numbered(count=COUNT):
    """Examples whose target is their own number."""
    return images(count), np.arange(count, dtype=np.int32)


def make(kind):
    x, y = numbered()
    options = {"normalization": gf.data.load().normalization("unit"), "augment": gf.data.crop_and_flip}
    return {
        "on device": lambda: gf.data.on_device(x, y, BATCH, **options),
        "in order": lambda: gf.data.on_device(x, y, BATCH, shuffled=False),
        "generated": lambda: gf.data.generate(sequences.Adding(7), BATCH),
        "stream": lambda: gf.data.stream(list(zip(x, y, strict=True)), BATCH, **options),
    }[kind]()


KINDS = ("on device", "in order", "generated", "stream")


@jax.jit
def batches(window, key, steps):
    """Several steps in one program, as a training loop runs them."""
    return jax.lax.scan(lambda carry, step: (carry, window.batch(key, step)), 0, steps)[1]


def fetch(source, first, count, key=KEY):
    return batches(source.window(first, count), key, jnp.arange(first, first + count))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_contract_of_every_source(kind):
    source = make(kind)
    assert isinstance(source, gf.data.Source)
    assert isinstance(source.window(0, 1), gf.data.Window)
    assert source.batch_size == BATCH
    whole = fetch(source, 0, 8)
    assert whole.inputs.shape[:2] == whole.targets.shape[:2] == (8, BATCH)
    compiled = batches._cache_size()
    parts = [fetch(source, first, 4) for first in (0, 4)]
    assert batches._cache_size() == compiled + 1, "one program for all windows of a length"
    same(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), whole)
    same(fetch(make(kind), 4, 4), parts[1])  # a new process that continues from step 4
    same(fetch(source, 0, 4), parts[0])  # back again
    assert not np.array_equal(whole.inputs[0], whole.inputs[1])


@pytest.mark.parametrize("kind", ["on device", "generated"])
def test_runs_with_their_own_keys_are_vmapped(kind):
    source, keys = make(kind), jax.random.split(KEY, 3)
    together = jax.vmap(lambda key: batches(source, key, jnp.arange(4)))(keys)
    for number, key in enumerate(keys):
        alone = fetch(source, 0, 4, key)
        np.testing.assert_array_equal(together.targets[number], alone.targets)
        np.testing.assert_allclose(together.inputs[number], alone.inputs, rtol=1e-6)
    assert not np.array_equal(together.targets[0], together.targets[1])


@pytest.mark.parametrize("kind", ["on device", "stream"])
def test_every_epoch_holds_every_example_once(kind):
    order = np.asarray(fetch(make(kind), 0, 10).targets).reshape(4, COUNT)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(COUNT), (4, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 4, "epochs in fresh orders"


def test_a_batch_can_be_drawn_outside_of_jit():
    source = make("in order")
    np.testing.assert_array_equal(source.batch(KEY, 2).targets, [8, 9, 0, 1])


def test_stored_order_goes_round():
    targets = fetch(make("in order"), 0, 5).targets
    np.testing.assert_array_equal(np.ravel(targets), np.tile(np.arange(COUNT), 2))


def test_inputs_stay_with_their_targets():
    x, y = numbered()
    drawn = fetch(gf.data.on_device(x, y, BATCH), 0, 10)
    assert drawn.inputs.dtype == jnp.uint8
    np.testing.assert_array_equal(drawn.inputs, x[np.asarray(drawn.targets)])
    streamed = fetch(gf.data.stream(list(zip(x, y, strict=True)), BATCH), 0, 10)
    np.testing.assert_array_equal(streamed.inputs, x[np.asarray(streamed.targets)])


def test_streams_of_neighbouring_seeds_share_no_epoch():
    x, y = numbered()
    epochs = set()
    for seed in range(4):
        source = gf.data.stream(list(zip(x, y, strict=True)), 5, seed=seed)
        epochs |= {tuple(row) for row in np.asarray(fetch(source, 0, 8).targets).reshape(4, COUNT).tolist()}
    assert len(epochs) == 16


def test_processes_share_what_one_would_see():
    x, y = numbered()
    data = list(zip(x, y, strict=True))
    whole = fetch(gf.data.stream(data, BATCH), 0, 5).targets
    parts = [fetch(gf.data.stream(data, BATCH, process=(i, 2)), 0, 5).targets for i in range(2)]
    np.testing.assert_array_equal(np.sort(whole), np.sort(np.concatenate(parts, axis=1)))


def test_stream_onto_several_devices():
    x, y = numbered()
    mesh = jax.make_mesh((4,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    data = list(zip(x, y, strict=True))
    window = gf.data.stream(data, BATCH, sharding=sharding).window(0, 3)
    assert window.inputs.sharding == sharding
    np.testing.assert_array_equal(window.inputs, gf.data.stream(data, BATCH).window(0, 3).inputs)


def test_transform_runs_on_the_host():
    x, y = numbered()
    data = list(zip(x, y, strict=True))
    halved = gf.data.stream(data, BATCH, transform=lambda image: image[::2, ::2]).window(0, 2)
    np.testing.assert_array_equal(halved.inputs, gf.data.stream(data, BATCH).window(0, 2).inputs[:, :, ::2, ::2])


@pytest.mark.parametrize("batch", [0, COUNT + 1])
def test_batch_sizes_that_do_not_fit_are_refused(batch):
    x, y = numbered()
    with pytest.raises(ValueError, match=r"expected a batch size of 1 ... 10"):
        gf.data.on_device(x, y, batch)
    with pytest.raises(ValueError, match=r"expected a batch size of 1 ... 10"):
        gf.data.stream(list(zip(x, y, strict=True)), batch)


def test_inputs_and_targets_must_pair():
    with pytest.raises(ValueError, match="10 inputs and 9 targets"):
        gf.data.on_device(images(), np.arange(9), 2)
    with pytest.raises(ValueError, match=r"2 process\(es\) can share"):
        gf.data.stream(list(zip(*numbered(), strict=True)), 3, process=(0, 2))


# --- order ---


@pytest.mark.parametrize("size", [1, 2, SMALL, SMALL + 1, 1089])
def test_a_permutation_has_everything_once(size):
    order = np.asarray(jax.jit(permuted, static_argnums=1)(jax.random.key(size), size, jnp.arange(size)))
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def chi_square(counts):
    """Probability of counts at least as uneven as these, if all were equally likely (Pearson's test)."""
    expected = counts.sum() / counts.size
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.size - 1)


@pytest.mark.parametrize("size", [12, 1100])
def test_permutations_are_uniform(size):
    """Every number comes at every place, and every two at any two places, as often as any others (in 11 bins)."""
    keys = jax.random.split(jax.random.key(1), 50_000)
    places = jnp.asarray([0, 1, 2, size // 2, size - 2, size - 1])
    orders = np.asarray(jax.jit(jax.vmap(lambda key: permuted(key, size, places)))(keys))
    for place in range(6):
        assert chi_square(np.bincount(orders[:, place], minlength=size)) > 1e-6
    pairs = np.zeros((size, size)) if size == 12 else np.zeros((11, 11))
    for a, b in itertools.combinations(range(6), 2):
        assert np.all(orders[:, a] != orders[:, b])
        bins = orders if size == 12 else orders // 100
        pairs[:] = np.bincount(bins[:, a] * len(pairs) + bins[:, b], minlength=pairs.size).reshape(pairs.shape)
        assert chi_square(pairs[~np.eye(12, dtype=bool)] if size == 12 else pairs) > 1e-6


def test_order_is_exact_late_in_a_run():
    """Steps x batch size beyond 2^31, below 2^32."""
    steps = jnp.arange(20) + 500_000_000
    order = jax.jit(jax.vmap(lambda step: epoch_order(KEY, COUNT, 5, step)))(steps).reshape(10, COUNT)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(COUNT), (10, 1)))


# --- augmentation ---


def windows(image):
    """All 81 crops of the padded image and their mirror images, by their bytes."""
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    size = image.shape[0]
    crops = {(i, j): padded[i : i + size, j : j + size] for i in range(9) for j in range(9)}
    plain = {crop.tobytes(): (i, j, False) for (i, j), crop in crops.items()}
    return plain | {crop[:, ::-1].tobytes(): (i, j, True) for (i, j), crop in crops.items()}


def test_crops_and_flips_are_uniform_over_all_windows():
    image = images(1, size=6)[0]
    count = 16_200
    cropped = np.asarray(gf.data.crop_and_flip(KEY, jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))))
    known = windows(image)
    found = [known[crop.tobytes()] for crop in cropped]
    counts = np.zeros((9, 9, 2))
    for i, j, mirrored in found:
        counts[i, j, int(mirrored)] += 1
    assert chi_square(counts) > 1e-6


def test_images_of_a_batch_are_cropped_independently():
    image = jnp.broadcast_to(jnp.asarray(images(1)), (50, 6, 6, 3))
    assert len({crop.tobytes() for crop in np.asarray(gf.data.random_crop(KEY, image))}) > 30
    assert len({crop.tobytes() for crop in np.asarray(gf.data.random_flip(KEY, image))}) == 2


def test_what_a_crop_pads_is_the_mean_image():
    """He et al. 2016: the per-pixel mean is subtracted, then zeros are padded."""
    x = images(20)
    normalize = gf.data.normalization.normalization(x, "pixel_mean")
    source = gf.data.on_device(x, np.arange(20), 20, normalization=normalize, augment=gf.data.crop_and_flip)
    batch = source.batch(KEY, 0)
    mean = x.mean(0, dtype=np.float64) / 255
    for image, target in zip(np.asarray(batch.inputs), np.asarray(batch.targets), strict=True):
        padded = np.pad(x[target] / 255 - mean, ((4, 4), (4, 4), (0, 0)))
        crops = [padded[i : i + 6, j : j + 6] for i in range(9) for j in range(9)]
        assert min(np.abs(image - c).max() for crop in crops for c in (crop, crop[:, ::-1])) < 1e-6


# --- normalization ---


@pytest.mark.parametrize(
    "kind, axes", [("global", (0, 1, 2, 3)), ("channel", (0, 1, 2)), ("pixel_mean", 0), ("unit", None)]
)
def test_normalization_against_numpy(kind, axes):
    x = images(50)
    scaled = x / 255
    mean = 0 if axes is None else scaled.mean(axes)
    std = scaled.std(axes) if kind in ("global", "channel") else 1
    normalized = jax.jit(gf.data.normalization.normalization(x, kind))(jnp.asarray(x))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(normalized, (scaled - mean) / std, atol=2e-6)


def test_normalization_of_a_data_set_is_that_of_normalize():
    data = gf.data.load()
    x = data.test.images[:5]
    np.testing.assert_allclose(data.normalization()(jnp.asarray(x)), data.normalize(x), rtol=1e-5, atol=1e-6)


def test_normalization_refuses_what_it_cannot_do():
    x = images(5)
    normalize = gf.data.normalization.normalization(x)
    with pytest.raises(TypeError, match="normalized before"):
        normalize(jnp.zeros((1, 6, 6, 3)))
    x[..., 1] = 7
    with pytest.raises(ValueError, match="images that vary"):
        gf.data.normalization.normalization(x, "channel")
