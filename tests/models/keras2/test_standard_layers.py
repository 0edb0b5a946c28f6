"""Standard layers of Keras 2 that Keras 3 lacks or changed, networks built of them, and their import by one command."""

import contextlib
import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tf_keras.src.applications import convnext, efficientnet, mobilenet_v3
from typer.testing import CliRunner

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.builder import Builder
from deepstreaks_dask.models.keras2.importer import import_legacy
from deepstreaks_dask.models.zoo.store import Zoo

L = tf_keras.layers
FUZZ = int(os.environ.get("DEEPSTREAKS_FUZZ", "60"))


def _ends(image, outputs):
    return tf_keras.Model(image, L.Dense(2)(L.Flatten()(outputs)))


def _normalization():
    image = tf_keras.Input((6, 6, 3))
    learned = L.Normalization()
    learned.adapt(np.random.default_rng(0).normal(3, 2, (20, 6, 6, 3)))
    x = L.Normalization(mean=[0.5, 0.2, 0.1], variance=[1.0, 4.0, 2.0])(learned(image))
    return _ends(image, L.Normalization(axis=None, mean=0.1, variance=2.0, invert=True)(x))


def _augmentation():
    image = tf_keras.Input((6, 6, 3))
    x = L.RandomFlip()(L.RandomRotation(0.1)(image))
    x = L.RandomContrast(0.1)(L.RandomTranslation(0.1, 0.1)(L.RandomZoom(0.1)(x)))
    x = L.Rescaling([0.5, 0.2, 0.1], offset=[1.0, 2.0, 3.0])(L.RandomBrightness(0.1)(x))
    return _ends(image, L.Resizing(4, 5)(x))


def _arithmetic():
    image = tf_keras.Input((6, 6, 2))
    a, b = L.Conv2D(3, 3)(image), L.Conv2D(3, 3)(image)
    x = 1.0 - a * 0.5 + b / 2.0
    x = (2.0 / (tf.abs(x) + 1.0) - b) ** 2 + (-a)
    x = x - np.array([0.5, 0.25, 0.1], np.float32)
    x = tf.maximum(x, 0.25 * b) + tf.minimum(x, 0.5) + tf.square(a) + tf.sqrt(tf.exp(b))
    x = tf.clip_by_value(x, -3.0, 3.0) + tf.math.log(tf.abs(x) + 1.0) + tf.tanh(a)
    return _ends(image, tf.cast(x, tf.float32) + tf.sigmoid(b) + tf.identity(a))


def _shapes():
    image = tf_keras.Input((6, 6, 2))
    a = L.Conv2D(3, 3)(image)
    x = tf.concat([a, tf.expand_dims(a[..., 0], -1)], axis=-1)[:, 1:, ::2, :]
    x = tf.pad(tf.transpose(x, (0, 2, 1, 3)), [[0, 0], [1, 0], [0, 0], [0, 0]])
    x = tf.stack([x, x * 0.5], axis=1)[:, -1]
    mean = tf.reduce_mean(x, [1, 2], keepdims=True)
    x = tf.math.l2_normalize(tf.reshape(x - mean, (-1, 36)), axis=-1)
    most = tf.squeeze(tf.reduce_max(a, axis=[1, 2], keepdims=True), axis=[1, 2])
    return _ends(image, tf.concat([x, most, tf.reduce_sum(a, axis=(1, 2, 3))[:, tf.newaxis]], 1))


def _activations():
    image = tf_keras.Input((6, 6, 2))
    a = L.Conv2D(3, 3)(image)
    x = tf.nn.relu(a) + tf.nn.relu6(a + 3.0) / 6.0 + tf.nn.silu(a) + tf.nn.gelu(a)
    x = x + tf.nn.leaky_relu(a, alpha=0.3) + tf.nn.softmax(a) + tf.nn.elu(a) + tf.math.softplus(a)
    return _ends(image, x + tf.nn.softmax(a, axis=1))


def _mobilenet():
    def blocks(x, kernel, activation, se_ratio):
        x = mobilenet_v3._inverted_res_block(x, 1, 8, 3, 2, se_ratio, activation, 0)
        return mobilenet_v3._inverted_res_block(x, 2, 8, kernel, 1, se_ratio, activation, 1)

    return mobilenet_v3.MobileNetV3(
        blocks, 16, (32, 32, 3), weights=None, include_top=False, pooling="avg"
    )


def _efficientnet():
    blocks = [block | {"repeats": 1} for block in efficientnet.DEFAULT_BLOCKS_ARGS[:2]]
    return efficientnet.EfficientNet(
        0.25, 1, 32, blocks_args=blocks, weights=None, input_shape=(32, 32, 3), classes=2, classifier_activation=None,
    )  # fmt: skip


def _convnext():
    return convnext.ConvNeXt(
        [1, 1, 1, 1], [4, 8, 8, 8], drop_path_rate=0.1, default_size=32, model_name="small",
        weights=None, input_shape=(32, 32, 3), classes=2, classifier_activation=None,
    )  # fmt: skip


NETWORKS = {
    function.__name__.strip("_"): function
    for function in (
        _normalization,
        _augmentation,
        _arithmetic,
        _shapes,
        _activations,
        _mobilenet,
        _efficientnet,
        _convnext,
    )
}


def _randomise(model):
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, (L.Normalization, tf_keras.Model)):
            continue
        for variable in layer.weights:
            if "variance" in variable.name:
                values = rng.uniform(0.5, 1.5, variable.shape)
            else:
                fan = max(1, int(np.prod(variable.shape[:-1])))
                values = rng.normal(0, (2 / fan) ** 0.5, variable.shape)
            variable.assign(values.astype(np.float32))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_the_original_gives_and_are_kept(tmp_path, name):
    original = NETWORKS[name]()
    _randomise(original)
    original.save(tmp_path / "net.h5", save_format="h5")
    shape = original.input_shape[1:]
    spread = 1 if shape[0] < 32 else 200  # the published networks take bytes
    images = np.random.default_rng(1).normal(0, spread, (4, *shape)).astype("f4")
    wanted = np.asarray(original(images, training=False))
    assert wanted.std(axis=0).max() > 1e-3 * np.abs(wanted).max()  # else the test could not fail
    tolerance = {"rtol": 1e-5, "atol": 1e-5 * max(1, np.abs(wanted).max())}
    np.savez(tmp_path / "net.outputs.npz", inputs=images, outputs=wanted)
    (card,) = import_legacy(tmp_path / "net.h5", tmp_path / "zoo", family="rb")
    assert list(card.recipe["outputs_checked"]) == ["net.outputs.npz"]
    kept = Zoo(tmp_path / "zoo").load("rb_net")  # a .keras file without code
    np.testing.assert_allclose(np.asarray(kept(images, training=False)), wanted, **tolerance)


# By one command


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def braai(tmp_path):
    """A network like braai: triplets, and nothing in its name that says what it is."""
    image = tf_keras.Input((9, 9, 3))
    model = tf_keras.Model(
        image, L.Dense(1, activation="sigmoid")(L.Flatten()(L.Conv2D(2, 3)(image)))
    )
    model.save(tmp_path / "braai_d6 m9.h5", save_format="h5")
    return model, tmp_path / "braai_d6 m9.h5"


def test_a_file_is_imported_with_its_scaling_and_family(braai, tmp_path):
    model, file = braai
    done = _run(
        "models", "import", file, "--scaling", "l2", "--family", "rb", "--zoo", tmp_path / "zoo"
    )
    assert done.exit_code == 0, done.output
    assert "--families rb" in done.output
    (card,) = Zoo(tmp_path / "zoo").list()
    assert (card.name, card.family, card.scaling) == ("rb_braai-d6-m9", "rb", "l2")
    assert card.input_shape == (9, 9, 3)
    again = _run(
        "models", "import", file, "--scaling", "none", "--family", "rb", "--zoo", tmp_path / "zoo"
    )
    assert "another --version" in str(again.exception)
    config = file.with_name("braai.architecture.json")
    config.write_text(model.to_json())
    model.save_weights(file.with_name("braai.h5"))
    done = _run("models", "import", config, "--family", "kd", "--zoo", tmp_path / "zoo", "--json")
    assert [card["name"] for card in json.loads(done.stdout)] == ["kd_braai"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--family"),
        (("--family", "r_b"), "underscore"),
        (("--family", "../rb"), "not valid"),
        (("--family", "rb", "--scaling", "l3"), "scaling 'l3'"),
        (("--family", "rb", "--config", "x.json"), "--config"),
    ],
)
def test_what_a_file_is_must_be_said(braai, tmp_path, options, message):
    done = _run("models", "import", braai[1], "--zoo", tmp_path / "zoo", *options)
    assert message in str(done.exception)
    assert isinstance(done.exception, ModelError)
    assert not (tmp_path / "zoo").exists()


def test_other_files_are_refused_with_what_to_give(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"\.h5"):
        import_legacy(tmp_path / "net.onnx", tmp_path / "zoo", family="rb")


def test_a_folder_takes_the_family_that_is_named(braai, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("rb_first", "second"):
        (tmp_path / "in" / f"{name}.h5").write_bytes(braai[1].read_bytes())
    cards = import_legacy(tmp_path / "in", tmp_path / "zoo", family="rb")
    assert [card.name for card in cards] == ["rb_first", "rb_second"]


@pytest.mark.parametrize("what", ["other", "shape", "missing", "damaged", "pickle"])
def test_outputs_that_are_not_the_networks(braai, tmp_path, what):
    model, file = braai
    inputs = np.random.default_rng(0).normal(0, 1, (3, 9, 9, 3)).astype("f4")
    outputs = np.asarray(model(inputs))
    stored = file.with_name("braai_d6 m9.outputs.npz")
    match what:
        case "other":
            np.savez(stored, inputs=inputs, outputs=outputs + 1e-3)
        case "shape":
            np.savez(stored, inputs=inputs[:, 1:], outputs=outputs)
        case "missing":
            np.savez(stored, inputs=inputs)
        case "damaged":
            stored.write_bytes(b"PK\x03\x04")
        case "pickle":
            np.savez(stored, inputs=np.array([{}], object), outputs=outputs)
    with pytest.raises(ModelError, match=r"outputs\.npz"):
        import_legacy(file, tmp_path / "zoo", family="rb")
    assert Zoo(tmp_path / "zoo").list() == []


# What is refused


@pytest.fixture(scope="module")
def arithmetic():
    return json.loads(_arithmetic().to_json())


def _operations(config):
    return [layer for layer in config["config"]["layers"] if layer["class_name"] == "TFOpLambda"]


def _build(config):
    return Builder("net.json", 10_000).build(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": "io.read_file"}, r"io\.read_file"),
        ({"function": "numpy_function"}, "numpy_function"),
        ({"function": ["math.add"]}, "none of the functions"),
        ({"function": None}, "none of the functions"),
        ({"function": "__operators__.getitem"}, r"tf\.math\.multiply.*argument 'y'"),
    ],
)
def test_functions_that_are_not_in_the_list(arithmetic, change, message):
    config = json.loads(json.dumps(arithmetic))
    _operations(config)[0]["config"].update(change)
    with pytest.raises(ModelError, match=message) as caught:
        _build(config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": "x" * 1000}, "overlong"),
        ({"y": [0.0] * 20_000}, "numbers"),
        ({"y": float("inf")}, "finite"),
        ({"z": 1.0}, r"tf\.math\.multiply.*argument 'z'"),
        ({"y": ["nothing", 0, 0]}, "no call 0 of 'nothing'"),
        (["y"], "not known"),
    ],
)
def test_arguments_that_do_not_fit(arithmetic, arguments, message):
    config = json.loads(json.dumps(arithmetic))
    _operations(config)[0]["inbound_nodes"][0][3] = arguments
    with pytest.raises(ModelError, match=message):
        _build(config)


VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=4) | st.just(["conv2d", 0, 0])


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_operations_are_built_or_refused(arithmetic, data):
    config = json.loads(json.dumps(arithmetic))
    for _ in range(data.draw(st.integers(1, 3))):
        layer = data.draw(st.sampled_from(_operations(config)))
        node = layer["inbound_nodes"][0]
        match data.draw(st.sampled_from(["function", "place", "argument", "node"])):
            case "function":
                layer["config"]["function"] = data.draw(
                    VALUES
                    | st.sampled_from(
                        ["math.pow", "concat", "reshape", "cast", "math.reduce_mean", "pad"]
                    )
                )
            case "place" if isinstance(node, list) and node:
                node[data.draw(st.integers(0, len(node) - 1))] = data.draw(VALUES)
            case "argument" if isinstance(node, list) and node and isinstance(node[-1], dict):
                key = data.draw(
                    st.sampled_from(["y", "x", "axis", "shape", "name", "dtype", "slice_spec"])
                )
                node[-1][key] = data.draw(VALUES | st.lists(VALUES, max_size=3))
            case _:
                layer["inbound_nodes"][0] = data.draw(VALUES)
    with contextlib.suppress(ModelError):
        _build(config)
