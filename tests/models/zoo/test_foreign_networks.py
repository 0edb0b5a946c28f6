"""A network of a stranger's runs no code, opens no file, and takes no more memory than it has weights."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import fork_hdf5
import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import layers
from mutations import (
    COUNT,
    generators,
    mutate_bytes,
    mutate_json,
    nothing_executed,
    one_line_errors,
)

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2 import hdf5
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo import keras_config, keras_file, serialization
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.keras_file import parse_keras
from deepstreaks_dask.models.zoo.serialization import load_keras
from deepstreaks_dask.models.zoo.store import Zoo

SIDE = 8


def parts(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small ``.keras`` file, with a network in it that was compiled."""
    pixels = keras.Input((SIDE, SIDE, 1))
    inner = keras.Sequential([layers.Input((SIDE, SIDE, 1)), layers.Conv2D(2, 3), layers.Flatten()])
    inner.compile("adam", "mse")
    x = layers.Dropout(0.1)(layers.BatchNormalization()(inner(pixels)))
    model = keras.Model(pixels, layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "mse")
    path = tmp_path_factory.mktemp("sound") / "small.keras"
    model.save(path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def canary(tmp_path):
    with nothing_executed(tmp_path) as canary:
        yield canary


def with_layer(data, layer, at=-1):
    """Put another layer in the place of one."""
    members = parts(data)
    config = json.loads(members["config.json"])
    config["config"]["layers"][at] |= layer
    return zipped(members | {"config.json": json.dumps(config)})


def with_config(data, change):
    members = parts(data)
    config = json.loads(members["config.json"])
    change(config)
    return zipped(members | {"config.json": json.dumps(config)})


def test_all_that_only_computes_is_loaded_as_it_was(tmp_path):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((SIDE, SIDE, 1))
    x = layers.RandomRotation(0.1)(layers.RandomFlip()(layers.Rescaling(2.0)(pixels)))
    x = layers.Conv2D(
        4, 3, activation="relu", kernel_regularizer="l2", kernel_constraint="max_norm"
    )(x)
    x = keras.ops.sqrt(keras.ops.abs(x + 1.0))[:, 1:, :, :]
    x = layers.Activation(keras.activations.gelu)(layers.Normalization(mean=0.1, variance=2.0)(x))
    x = layers.SpectralNormalization(layers.Conv2D(2, 1))(x)
    x = layers.Reshape((-1, 2))(x)
    x = layers.MultiHeadAttention(2, 2)(x, x) + layers.EinsumDense("abc,cd->abd", (None, 2))(x)
    x = layers.Bidirectional(layers.GRU(2, dropout=0.1))(layers.TimeDistributed(layers.Dense(2))(x))
    model = keras.Model(pixels, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.2)(x)))
    model.save(tmp_path / "a.keras")
    loaded = load_keras(tmp_path / "a.keras")
    cutouts = np.random.default_rng(0).random((3, SIDE, SIDE, 1), np.float32)
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(one(cutouts, training=False)) for one in (loaded, model))
    )
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]


UNSAFE = {
    "TFSMLayer": ("keras.layers", {"filepath": "/tmp/saved", "call_endpoint": "serve"}),
    "Lambda": (
        "keras.layers",
        {"function": {"class_name": "__lambda__", "config": {"value": "x"}}},
    ),
    "TextVectorization": ("keras.layers", {"vocabulary": "/etc/passwd"}),
    "StringLookup": ("keras.layers", {"vocabulary": "/etc/passwd"}),
    "TorchModuleWrapper": ("keras.layers", {"module": "x"}),
    "JaxLayer": ("keras.layers", {"call_fn": "x"}),
    "Map": ("keras.src.ops.core", {}),
    "Adam": ("keras.optimizers", {}),
    "ModelCheckpoint": ("keras.callbacks", {"filepath": "x"}),
    "get_file": ("keras.utils", {}),
    "Operation": ("keras", {}),
    "Layer": ("keras.layers", {}),
    "Path": ("keras.src.saving.saving_lib.pathlib", {}),
    "__typespec__": (None, {}),
    "__numpy__": (None, {"value": [0], "dtype": "O"}),
    "__tensor__": (None, {"value": [0], "dtype": "float32"}),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_does_more_than_compute_is_refused(sound, name, monkeypatch):
    module, config = UNSAFE[name]
    monkeypatch.setattr(
        keras.saving, "load_model", lambda *_, **__: pytest.fail("it came to Keras")
    )
    layer = {"module": module, "class_name": name, "config": config, "registered_name": None}
    with pytest.raises(ModelError, match="refused") as refused:
        parse_keras(with_layer(sound, layer), "a.keras")
    assert "\n" not in str(refused.value)
    option = {"kernel_initializer": {"module": module, "class_name": name, "config": config}}
    with pytest.raises(ModelError, match="refused"):
        parse_keras(
            with_config(sound, lambda c: c["config"]["layers"][-1]["config"].update(option)),
            "a.keras",
        )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["config"]["layers"][-1].update(registered_name="evil>Dense"), "another name"),
        (lambda c: c["config"]["layers"][-1].update(class_name=["Dense"]), "no text"),
        (lambda c: c["config"]["layers"][-1].update(module=7), "no text"),
        (lambda c: c["config"]["layers"][-1]["config"].update(units=10**12), "too large"),
        (lambda c: c["config"]["layers"][-1]["config"].update(units=10**8), "more than its file of weights holds"),
        (lambda c: c["config"]["layers"][-1]["config"].update(stateful=True), "stateful"),
        (lambda c: c["config"]["layers"][-1]["config"].update(activation={"class_name": "function", "module": "builtins",
                                                                         "config": "exec"}), "refused"),
        (lambda c: c.update(class_name="Dense", module="keras.layers"), "no .keras file of"),
        (lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[None, 10**8, 10**8, 1]), "more than|cannot be"),
        (lambda c: c["config"].update(x=json.loads("[" * 200 + "]" * 200)), "too deep"),
        (lambda c: c["config"].update(x=float("nan")), "NaN is no number"),
        (lambda c: c["config"].pop("layers"), "cannot be loaded"),
    ],
)  # fmt: skip
def test_hostile_configurations(sound, change, word):
    with pytest.raises(ModelError, match=word) as refused:
        parse_keras(with_config(sound, change), "a.keras")
    assert "\n" not in str(refused.value)


def test_a_configuration_without_end(sound, monkeypatch):
    monkeypatch.setattr(keras_config, "MAX_VALUES", 1000)
    with pytest.raises(ModelError, match="too long"):
        parse_keras(with_config(sound, lambda c: c["config"].update(x=[0] * 1000)), "a.keras")


def test_layers_that_give_more_than_memory_holds(tmp_path):
    model = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.UpSampling2D(4096), layers.GlobalAveragePooling2D()]
    )
    model.save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match="too large"):
        load_keras(tmp_path / "a.keras")


def weights(change):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        change(file)
    return buffer.getvalue()


def external(file, path="/etc/hostname"):
    file.create_dataset("layers/dense/vars/0", (4,), np.uint8, external=[(path, 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), np.uint8)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def linked(link):
    return lambda file: file.create_group("layers/dense").__setitem__("vars", link)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (external, "outside of the file"),
        (virtual, "outside of the file"),
        (linked(h5py.ExternalLink("/etc/hostname", "/")), "link"),
        (linked(h5py.SoftLink("/layers")), "link"),
        (lambda f: f.create_dataset("layers/dense/vars/0", (10**10,), "f4", chunks=(10**4,)), "never written"),
        (lambda f: f.create_dataset("layers/dense/vars/0", data=np.full(4, np.nan)), "finite"),
        (lambda f: f.create_dataset("layers/dense/vars/0", data=[b"text"]), "no plain numbers"),
        (lambda f: f.create_dataset("layers/dense/vars/0", data=np.zeros(10**6), compression=9), "declares"),
    ],
)  # fmt: skip
def test_hostile_weights(sound, change, word, monkeypatch):
    monkeypatch.setattr(
        keras.saving, "load_model", lambda *_, **__: pytest.fail("it came to Keras")
    )
    with pytest.raises(ModelError, match=word):
        parse_keras(zipped(parts(sound) | {"model.weights.h5": weights(change)}), "a.keras")


def test_what_is_no_part_of_a_network_is_refused(sound):
    with pytest.raises(ModelError, match=r"'assets/evil\.py', which is no part of a network"):
        parse_keras(zipped(parts(sound) | {"assets/evil.py": b"x"}), "a.keras")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", parts(sound)["config.json"])
        archive.writestr("model.weights.h5", bytes(2**24))
    with pytest.raises(ModelError, match=r"model\.weights\.h5 has more than"):
        parse_keras(bomb.getvalue(), "a.keras")


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": [10**6, 10**6, 1]},
        {"input_shape": [4096, 4096, 64]},
        {"input_shape": [144, 144]},
        {"outputs": 10**9},
        {"classes": ["a"] * 10**6},
        {"name": "x" * 10**5},
        {"file": "../../etc/passwd"},
        {"sha256": "0"},
    ],
)
def test_a_card_says_nothing_beyond_bounds(change):
    card = Card("rb_small", "1", "vgg6").to_dict()
    with pytest.raises(ModelError) as refused:
        Card.from_dict(card | change)
    assert len(str(refused.value)) < 500


def test_a_card_of_megabytes_is_not_read(tmp_path):
    (tmp_path / "rb_small" / "1").mkdir(parents=True)
    with (tmp_path / "rb_small" / "1" / "card.json").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ModelError, match="more than"):
        Zoo(tmp_path).card("rb_small")


def test_a_network_is_no_larger_than_its_file():
    """A card of large cutouts beside a file of few weights: nothing is built that the file could not fill."""
    data = safetensors.numpy.save({"000.dense.kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(ModelError, match="more than its file of weights holds"):
        serialization.network(data, Card("rb_small", "1", "vgg6", input_shape=(4096, 4096, 1)))
    with pytest.raises(ModelError, match="there is no vgg6 of input"):
        serialization.network(data, Card("rb_small", "1", "vgg6", input_shape=(1, 1, 1)))


def test_a_limit_is_of_one_thread_and_one_network():
    with pytest.raises(ModelError, match="layer 'dense"), keras_file.limited_weights(10, "x"):
        keras.Sequential([layers.Input((4,)), layers.Dense(10**6)])
    assert keras.Sequential([layers.Input((4,)), layers.Dense(4)]).count_params() == 20


def test_mutated_configurations_are_read_or_refused(sound, monkeypatch):
    members = parts(sound)
    arrays = hdf5.read_tree(members["model.weights.h5"])
    monkeypatch.setattr(keras_file, "read_tree", lambda _: arrays)
    config = json.loads(members["config.json"])
    for k, rng in enumerate(generators(30)):
        with one_line_errors():
            parse_keras(
                zipped(members | {"config.json": json.dumps(mutate_json(rng, config))}), "a.keras"
            )
        if k % 100 == 99:
            keras.backend.clear_session()


def test_mutated_keras_files_are_read_or_refused(sound, monkeypatch):
    arrays = hdf5.read_tree(parts(sound)["model.weights.h5"])
    monkeypatch.setattr(keras_file, "read_tree", lambda _: arrays)
    for rng in generators(31):
        with one_line_errors():
            parse_keras(mutate_bytes(rng, sound), "a.keras")


def test_mutated_weights_in_hdf5_are_read_or_refused(sound, tmp_path):
    (tmp_path / "sound.h5").write_bytes(parts(sound)["model.weights.h5"])
    command = [
        sys.executable,
        fork_hdf5.__file__,
        hdf5.__file__,
        tmp_path / "sound.h5",
    ]
    done = subprocess.run([*command, "0", str(COUNT)], capture_output=True, check=True, text=True)
    counts = json.loads(done.stdout)
    assert counts["read"] + counts["refused"] + counts["died"] == COUNT
    assert counts["refused"]
    for k in [*counts["deaths"], 0]:  # which end their process: so the caller has one line
        with one_line_errors():
            members = parts(sound)
            damaged = fork_hdf5.mutate_bytes(np.random.default_rng(k), members["model.weights.h5"])
            parse_keras(zipped(members | {"model.weights.h5": damaged}), "a.keras")


def test_mutated_cards_are_read_or_refused(tmp_path):
    zoo = Zoo(tmp_path)
    zoo.save(build("vgg6", (32, 32, 1)), Card("rb_small", "1", "vgg6", input_shape=(32, 32, 1)))
    path = tmp_path / "rb_small" / "1" / "card.json"
    values = json.loads(path.read_text())
    for rng in generators(32):
        path.write_text(json.dumps(mutate_json(rng, values)))
        with one_line_errors():
            card = zoo.card("rb_small")
            assert max(card.input_shape) <= 4096
            zoo.list()


def test_mutated_safetensors_are_read_or_refused(monkeypatch):
    card = Card("rb_small", "1", "vgg6", input_shape=(32, 32, 1))
    data, _, _ = serialization.to_bytes(build("vgg6", (32, 32, 1)), card, "float16")
    made = build("vgg6", (32, 32, 1))
    monkeypatch.setattr(serialization, "build", lambda *_: made)
    head = 8 + int.from_bytes(data[:8], "little")
    for rng in generators(33):
        # most of them where the names, types and shapes are
        mutated = (
            mutate_bytes(rng, data[:head]) + data[head:]
            if rng.integers(4)
            else mutate_bytes(rng, data)
        )
        with one_line_errors():
            serialization.network(mutated, card)


def test_mutated_forests_are_read_or_refused():
    card = next(card for card in Zoo().list() if card.classes)
    data = (Path(Zoo()._root) / card.name / card.version / card.file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == card.sha256
    header = safetensors.numpy.load(data)
    for rng in generators(34, max(5, COUNT // 50)):
        arrays = dict(header)
        name = sorted(arrays)[rng.integers(len(arrays))]
        arrays[name] = arrays[name].ravel()[: int(rng.integers(arrays[name].size + 1))]
        with one_line_errors():
            serialization.classifier(safetensors.numpy.save(arrays), dataclasses.replace(card))
