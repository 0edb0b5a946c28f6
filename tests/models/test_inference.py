"""The compiled forward pass gives the models' own scores, whatever the batch and the backend."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from shallow import QUICK_XLA, SHALLOW, shallow

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.inference import compile_forward, resizing, set_precision
from deepstreaks_dask.models.registry import ARCHITECTURES, PRECISIONS, build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo


@pytest.fixture(scope="module")
def cutouts():
    return np.random.default_rng(1).integers(0, 256, (7, 144, 144), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(1)
    return [_settled(build(architecture)) for architecture in ARCHITECTURES]


@pytest.fixture(scope="module")
def forward(models, cutouts):
    """All networks compiled for one batch of all cutouts."""
    return compile_forward(models, len(cutouts))


@pytest.fixture(scope="module")
def whole(forward, cutouts):
    """Scores of all cutouts in one batch; not to be changed."""
    return forward(cutouts)


@pytest.fixture(scope="module")
def shallow_models():
    """Networks with every kind of layer of the three architectures, of small cutouts."""
    keras.utils.set_random_seed(1)
    with shallow():
        return [_settled(build(architecture, (48, 48, 1))) for architecture in ARCHITECTURES]


@pytest.fixture(scope="module")
def small_cutouts(cutouts):
    return np.ascontiguousarray(cutouts[:, 48:96, 48:96])


def _settled(model):
    """Give running statistics other values than 0 and 1, so that using them wrongly shows."""
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, shape))
            layer.moving_variance.assign(rng.uniform(0.9, 1.5, shape))
    return model


class Counted:
    """A model that counts how often its Python code runs, which is once a trace."""

    def __init__(self, model):
        self._model = model
        self.calls = 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self._model(*args, **kwargs)


def _expected(models, cutouts):
    images = cutouts[..., None].astype(np.float32) / 255
    columns = [keras.ops.convert_to_numpy(model(images, training=False)) for model in models]
    return np.concatenate(columns, axis=1)


def test_bytes_score_as_floats_divided_by_255(models, cutouts, whole):
    assert whole.shape == (len(cutouts), len(models))
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, _expected(models, cutouts), atol=2e-6)


def test_padding_the_last_batch_leaves_scores_as_they_are(models, cutouts, forward, whole):
    for n in (1, 3, 6):
        np.testing.assert_array_equal(forward(cutouts[:n]), whole[:n])
    assert forward(cutouts[:0]).shape == (0, len(models))


def test_many_batches_come_in_their_order(models, cutouts):
    forward = compile_forward(models[:1], 3)
    many = np.concatenate([cutouts, cutouts[::-1], cutouts])
    apart = [forward(many[k : k + 3]) for k in range(0, len(many), 3)]
    np.testing.assert_array_equal(forward(many), np.concatenate(apart))


def test_scores_are_the_same_to_the_bit_every_time(models, cutouts):
    vgg6 = models[:1]
    first = compile_forward(vgg6, 4)(cutouts[:4])
    np.testing.assert_array_equal(compile_forward(vgg6, 4)(cutouts[:4]), first)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow may trace again"
)
def test_company_and_batch_do_not_change_a_bit(models, cutouts, whole):
    """A score is the same whoever is scored along: the cascade and reruns rest on it."""
    for column, model in enumerate(models):
        for batch in (8, 16):
            alone = compile_forward([model], batch)
            scores = [alone(cutouts[k : k + batch]) for k in range(0, len(cutouts), batch)]
            np.testing.assert_array_equal(np.concatenate(scores)[:, 0], whole[:, column])


def test_no_batch_is_traced_again(cutouts):
    model = Counted(build("vgg6"))
    forward = compile_forward([model], 4)
    traces = model.calls
    for n in (4, 1, 3, 4):
        forward(cutouts[:n])
    assert traces >= 1
    assert model.calls == traces


def test_cutouts_are_left_alone(models, cutouts):
    before = cutouts.copy()
    compile_forward(models[:1], 8)(cutouts)
    np.testing.assert_array_equal(cutouts, before)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 144, 144), np.float32),
        np.zeros((2, 100, 100), np.uint8),
        np.zeros((144, 144), np.uint8),
    ],
    ids=["floats", "other size", "no batch"],
)
def test_wrong_cutouts_are_refused(models, wrong):
    with pytest.raises(ModelError, match="give uint8"):
        compile_forward(models[:1], 4)(wrong)


@pytest.mark.parametrize(
    ("shapes", "batch", "match"),
    [
        ([], 4, "at least one"),
        ([(32, 32, 1)], 0, "give 1 or more"),
        ([(32, 32, 1), (40, 40, 1)], 4, "different shapes"),
    ],
)
def test_models_that_cannot_run_together_are_refused(shapes, batch, match):
    with pytest.raises(ModelError, match=match):
        compile_forward([build("vgg6", input_shape=shape) for shape in shapes], batch)


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_backends_agree(shallow_models, small_cutouts, tmp_path, backend):
    if backend == keras.backend.backend():
        pytest.skip(f"{backend} is what the other tests run on")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    zoo = Zoo(tmp_path / "zoo")
    with shallow():
        for model in shallow_models:
            card = Card(f"rb_{model.name}", "1", model.name, input_shape=(48, 48, 1))
            zoo.save(model, card, dtype="float32")
    np.save(tmp_path / "cutouts.npy", small_cutouts)
    code = f"""{SHALLOW}
import sys
import keras, numpy as np
from deepstreaks_dask.models.registry import ARCHITECTURES
from deepstreaks_dask.models.inference import compile_arrays, compile_forward, resizing
from deepstreaks_dask.models.zoo.store import Zoo
assert keras.backend.backend() == sys.argv[2]
if sys.argv[2] != "tensorflow":
    assert "tensorflow" not in sys.modules
zoo = Zoo(sys.argv[1] + "/zoo")
forward = compile_forward([zoo.load("rb_" + name) for name in ARCHITECTURES], 4)
cutouts = np.load(sys.argv[1] + "/cutouts.npy")
np.save(sys.argv[1] + "/scores.npy", forward(cutouts))
small = resizing(keras.Sequential([keras.Input((64, 48, 1)), keras.layers.Identity()]), 48, 48)
np.save(sys.argv[1] + "/resized.npy", keras.ops.convert_to_numpy(small(cutouts[..., None].astype("float32"))))
one, images = zoo.load("rb_vgg6"), cutouts[..., None].astype("float32") / 255
look = compile_arrays(one)
before = look(images)
one.predict(images, verbose=0)  # changes where JAX has the network's arrays
np.testing.assert_array_equal(look(images), before)
"""
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": QUICK_XLA}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), backend], env=environment, check=True
    )
    scores = np.load(tmp_path / "scores.npy")
    np.testing.assert_allclose(scores, _expected(shallow_models, small_cutouts), atol=1e-5)
    np.testing.assert_allclose(
        np.load(tmp_path / "resized.npy"), _resized(small_cutouts), atol=1e-3
    )


def _resized(cutouts):
    """Give floats (cutout, 64, 48, 1), as Pillow resizes them."""
    pictures = [Image.fromarray(cutout.astype(np.float32)) for cutout in cutouts]
    return np.array([picture.resize((48, 64), Image.Resampling.BILINEAR) for picture in pictures])[
        ..., None
    ]


def test_cutouts_of_another_size_are_resized(cutouts):
    seen = keras.Sequential([keras.Input((64, 48, 1)), keras.layers.Identity()])
    images = cutouts[..., None].astype(np.float32)
    found = keras.ops.convert_to_numpy(resizing(seen, 144, 144)(images))
    np.testing.assert_allclose(found, _resized(cutouts), atol=1e-3)
    assert resizing(seen, 64, 48) is seen
    keras.utils.set_random_seed(4)
    model = build("vgg6", (64, 48, 1))
    small = resizing(model, 144, 144)
    scores = compile_forward([small], 4)(cutouts)
    wanted = keras.ops.convert_to_numpy(model(_resized(cutouts) / 255, training=False))
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    set_precision(small, "mixed_bfloat16")
    assert 0 < np.abs(compile_forward([small], 4)(cutouts) - scores).max() < 0.02


def test_triplets_are_scaled_plane_by_plane():
    """As braai does it, and beside another network that takes the pixels as they are."""
    layers = keras.layers
    models = [
        keras.Sequential(
            [layers.Input((9, 9, 3)), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
        )
        for _ in range(2)
    ]
    rng = np.random.default_rng(0)
    triplets = rng.normal(0, 100, (5, 9, 9, 3)).astype(np.float32)
    triplets[0, 2:4, :, 1] = np.nan
    triplets[1, :, :, 2] = 0
    scaled = np.nan_to_num(triplets)
    for cutout in scaled:
        for plane in range(3):
            cutout[..., plane] /= np.linalg.norm(cutout[..., plane]) or 1
    plain = np.nan_to_num(triplets[2:]) / 1000
    found = compile_forward(models, 8, ["l2", "none"])(triplets)
    np.testing.assert_allclose(found[:, 0], models[0].predict(scaled, verbose=0)[:, 0], atol=1e-6)
    found = compile_forward(models, 8, ["l2", "none"])(plain)
    np.testing.assert_allclose(found[:, 1], models[1].predict(plain, verbose=0)[:, 0], atol=1e-6)
    with pytest.raises(ModelError, match="no scaling 'max'"):
        compile_forward(models, 8, ["l2", "max"])


def test_networks_of_several_scores_are_refused():
    with pytest.raises(ModelError, match="only one score"):
        compile_forward([build("vgg6", input_shape=(32, 32, 3), outputs=2)], 4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_changes_scores_a_little_and_weights_not_at_all(cutouts, precision):
    keras.utils.set_random_seed(3)
    model = build("vgg6", input_shape=(32, 32, 1))
    small = cutouts[:, :32, :32]
    single = compile_forward([model], 7)(small)
    set_precision(model, precision)
    scores = compile_forward([model], 7)(small)
    assert scores.dtype == np.float32
    assert {weight.dtype for weight in model.weights} == {"float32"}
    difference = np.abs(scores - single).max()
    if precision == "float32":
        assert difference == 0
    else:
        assert 0 < difference < 0.02
        # the last layer is single: a score is none of the few numbers that 16 bits near it would be
        assert (scores != scores.astype(np.float16)).any()


def test_flips_are_the_mean_of_four_looks(shallow_models, small_cutouts):
    models, cutouts = shallow_models, small_cutouts
    forward = compile_forward(models, len(cutouts))
    views = [cutouts, cutouts[:, ::-1], cutouts[:, :, ::-1], cutouts[:, ::-1, ::-1]]
    flipped = compile_forward(models, len(cutouts), flips=True)
    scores = flipped(cutouts)
    np.testing.assert_allclose(scores, np.mean([forward(v) for v in views], axis=0), atol=2e-6)
    assert np.abs(scores - forward(cutouts)).max() > 1e-5
    for view in views[1:]:
        np.testing.assert_allclose(flipped(view), scores, atol=2e-6)


def test_precision_reaches_layers_of_networks_in_networks():
    inner = build("vgg6", input_shape=(32, 32, 1))
    outer = keras.Sequential([keras.layers.Input((32, 32, 1)), inner])
    set_precision(outer, "mixed_bfloat16")
    *layers, last = inner.layers
    assert {layer.compute_dtype for layer in layers} == {"bfloat16"}
    assert last.compute_dtype == "float32"


def test_unknown_precision_is_refused():
    with pytest.raises(ModelError, match="no precision 'int8': choose one of float32"):
        set_precision(build("vgg6", input_shape=(32, 32, 1)), "int8")


def test_memory_of_a_gpu_grows_unless_somebody_wants_it_whole():
    code = (
        "import os; import deepstreaks_dask.models.inference; "
        "print(*(os.environ[k] for k in ('TF_FORCE_GPU_ALLOW_GROWTH', 'XLA_PYTHON_CLIENT_PREALLOCATE')))"
    )
    environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "false"}
    environment.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == ["false", "false"]
