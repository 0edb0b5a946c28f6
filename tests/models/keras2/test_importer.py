"""Networks of Keras 2 give what tf-keras gives; what is hostile or does not fit is refused whole."""

import contextlib
import copy
import json
import os
import shutil
from functools import cache
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import tf_keras
from dask.distributed import Client
from helpers import random_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import PUBLISHED, densenet121, random_weights, write_pair, write_weights

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2 import importer as legacy
from deepstreaks_dask.models.keras2 import sources
from deepstreaks_dask.models.keras2.hdf5 import read_hdf5
from deepstreaks_dask.models.keras2.importer import import_legacy, load_legacy
from deepstreaks_dask.models.keras2.sources import find_sources
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.runs import open_run

L = tf_keras.layers
FUZZ = int(os.environ.get("DEEPSTREAKS_FUZZ", "60"))
"""Mutated files of each kind; ``DEEPSTREAKS_FUZZ=10000`` makes so many."""
PROJECTS = {"rb": "5b96af9c0354c9000b0aea36", "sl": "5b99b2c6aec3c500103a14de"}
PROJECTS["kd"] = "5be0ae7958830a0018821794"


def _chain(*layers):
    return tf_keras.Sequential(list(layers))


def _convolutions():
    return _chain(
        L.SeparableConv2D(8, 3, input_shape=(20, 20, 2)),
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.LeakyReLU(0.1),
        L.Conv2D(6, 3, dilation_rate=2, groups=2, use_bias=False),
        L.ReLU(max_value=6.0, negative_slope=0.1, threshold=0.05),
        L.PReLU(shared_axes=[1, 2]),
        L.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        L.ZeroPadding2D(((1, 2), (0, 1))),
        L.Cropping2D(2),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.MaxPooling2D(3, strides=2, padding="same"),
        L.AveragePooling2D(2, padding="same"),
        L.SpatialDropout2D(0.2),
        L.LayerNormalization(),
        L.GlobalAveragePooling2D(),
        L.Reshape((2, 2)),
        L.Permute((2, 1)),
        L.Flatten(),
        L.ThresholdedReLU(0.2),
        L.ELU(0.5),
        L.GaussianNoise(0.1),
        L.Dense(2, activation="softmax"),
    )


def _norms():
    return _chain(
        L.Conv2D(4, 3, input_shape=(9, 9, 1), kernel_regularizer="l2", name="block/conv"),
        L.BatchNormalization(axis=[3], epsilon=0.01, name="block/bn"),
        L.BatchNormalization(scale=False),
        L.BatchNormalization(center=False),
        L.Activation("hard_sigmoid"),
        L.Flatten(),
        L.Dense(3, activation="hard_sigmoid", kernel_constraint="max_norm"),
        L.Dense(1, activation="sigmoid"),
    )


def _recurrent():
    return _chain(
        L.LSTM(5, recurrent_activation="hard_sigmoid", return_sequences=True, input_shape=(7, 3)),
        L.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True),
        L.Bidirectional(L.GRU(3, return_sequences=True, reset_after=True)),
        L.TimeDistributed(L.Dense(3, activation="tanh")),
        L.Bidirectional(L.LSTM(3, return_sequences=True, unroll=True), merge_mode="sum"),
        L.SimpleRNN(3, go_backwards=True, return_sequences=True),
        L.RNN([L.LSTMCell(3), L.GRUCell(4)]),
        L.Dense(1),
    )


def _sequence_of_images():
    inner = _chain(L.Conv2D(3, 3), L.BatchNormalization(), L.Flatten())
    return _chain(
        L.ConvLSTM2D(
            2,
            3,
            return_sequences=True,
            recurrent_activation="hard_sigmoid",
            input_shape=(4, 9, 9, 1),
        ),
        L.TimeDistributed(inner),
        L.LSTM(3),
    )


def _one_dimension():
    return _chain(
        L.Conv1D(4, 3, padding="causal", input_shape=(12, 3)),
        L.SeparableConv1D(4, 3),
        L.MaxPooling1D(2),
        L.Conv1DTranspose(2, 2),
        L.UpSampling1D(2),
        L.ZeroPadding1D(1),
        L.Cropping1D(1),
        L.GlobalMaxPooling1D(),
        L.Dense(3, activation=L.LeakyReLU(0.2)),
        L.RepeatVector(2),
        L.Softmax(),
    )


def _three_dimensions():
    return _chain(
        L.Conv3D(2, 2, input_shape=(4, 6, 6, 1)),
        L.AveragePooling3D(2),
        L.GroupNormalization(2),
        L.UnitNormalization(),
        L.Rescaling(2.0, 1.0),
        L.Flatten(),
        L.Dense(1, activation="swish"),
    )


def _channels_first():
    return _chain(
        L.ZeroPadding2D(1, data_format="channels_first", input_shape=(2, 8, 8)),
        L.BatchNormalization(axis=1),
        L.Flatten(data_format="channels_first"),
        L.Dense(1),
    )


def _several_ends():
    sequence, state = tf_keras.Input((5, 3)), tf_keras.Input((4,))
    outputs, hidden, cell = L.LSTM(4, return_state=True, return_sequences=True)(
        sequence, initial_state=[state, state]
    )
    return tf_keras.Model([sequence, state], [outputs, L.Dot(1, normalize=True)([hidden, cell])])


def _nested(*, frozen=False):
    """Networks in a network, called twice, a layer that is called twice, and merges of all kinds."""
    image = tf_keras.Input((16, 16, 1))
    first = _chain(L.Conv2D(4, 3, padding="same", input_shape=(16, 16, 1)), L.BatchNormalization())
    planes = tf_keras.Input((16, 16, 4))
    second = tf_keras.Model(
        planes, L.Conv2D(4, 1, name="a/conv")(L.BatchNormalization(name="a/bn")(planes))
    )
    a = first(image)
    b = second(a)
    c = second(b)
    shared = L.Dense(4)
    d = shared(c)
    e = shared(d)
    merged = L.Concatenate()(
        [d, e, L.Add()([a, b]), L.Multiply()([a, c]), L.Average()([a, b, c]), L.Maximum()([a, b])]
    )
    merged = L.Concatenate()([merged, L.Subtract()([d, e]), L.Minimum()([c, b])])
    output = L.Dense(1)(L.GlobalAveragePooling2D()(merged))
    if frozen:  # which changes the order of the weights in the file
        first.layers[0].trainable = False
        second.trainable = False
    return tf_keras.Model(image, output)


def _nested_deep():
    inner = _chain(_nested(), L.Dense(3), L.BatchNormalization())
    return _chain(inner, L.Dense(1))


def _attention():
    query, value = tf_keras.Input((4, 3)), tf_keras.Input((5, 3))
    return tf_keras.Model([query, value], L.Attention(use_scale=True)([query, value]))


NETWORKS = {
    function.__name__.strip("_"): function
    for function in (
        _convolutions,
        _norms,
        _recurrent,
        _sequence_of_images,
        _one_dimension,
        _three_dimensions,
        _channels_first,
        _several_ends,
        _nested,
        _nested_deep,
        _attention,
    )
} | {"nested_frozen": lambda: _nested(frozen=True)}


def _randomise(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.name:
            values = rng.uniform(0.5, 1.5, variable.shape)
        else:
            fan = max(1, int(np.prod(variable.shape[:-1])))
            values = rng.normal(0, (3 / fan) ** 0.5, variable.shape)
        variable.assign(values.astype(np.float32))


def _save(model, base, *, whole=False, text=None):
    """Save as Keras 2 does; gives the paths."""
    if whole:
        model.save(f"{base}.h5", save_format="h5")
        return [Path(f"{base}.h5")]
    paths = [Path(f"{base}.architecture.json"), Path(f"{base}.weights.h5")]
    paths[0].write_text(text or model.to_json())
    model.save_weights(f"{base}.h5", save_format="h5")  # the other ending means Keras 3 to it
    Path(f"{base}.h5").rename(paths[1])
    return paths


def _scores(model, images):
    outputs = model(images if len(images) > 1 else images[0], training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.asarray(output) for output in outputs]


def _assert_same(model, original):
    rng = np.random.default_rng(1)
    images = [rng.normal(0, 2, (3, *taken.shape[1:])).astype("f4") for taken in original.inputs]
    for found, wanted in zip(_scores(model, images), _scores(original, images), strict=True):
        assert wanted.std() > 1e-4  # else the test could not fail
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def _original(base):
    """Load a pair with tf-keras."""
    text = Path(f"{base}.architecture.json").read_text()
    text = json.loads(text) if text.startswith('"') else text
    model = tf_keras.models.model_from_json(text)
    other = Path(f"{base}.copy.h5")
    shutil.copy(f"{base}.weights.h5", other)
    model.load_weights(other)
    other.unlink()
    return model


@pytest.mark.parametrize("whole", [False, True], ids=["pair", "whole"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_the_original_gives(tmp_path, name, whole):
    original = NETWORKS[name]()
    _randomise(original)
    found = load_legacy(*_save(original, tmp_path / "net", whole=whole))
    _assert_same(found.model, original)


def test_embedding_with_mask(tmp_path):
    original = _chain(L.Embedding(11, 4, mask_zero=True, input_length=6), L.LSTM(3), L.Dense(1))
    original.build((None, 6))
    _randomise(original)
    found = load_legacy(*_save(original, tmp_path / "net"))
    words = [np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9]], np.int32)]
    np.testing.assert_allclose(_scores(found.model, words), _scores(original, words), atol=1e-6)


@pytest.mark.parametrize("layer", [L.LSTM, L.GRU])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "bidirectional"])
def test_weights_of_cudnn_layers(tmp_path, layer, both):
    """As tf-keras turns them round, which can load such a file into the plain layer."""
    one = layer(4, input_shape=(5, 3))
    original = _chain(L.Bidirectional(layer(4), input_shape=(5, 3)) if both else one)
    _randomise(original)
    paths = _save(original, tmp_path / "net")
    rng = np.random.default_rng(2)
    gates = 4 if layer is L.LSTM else 3
    with h5py.File(paths[1], "r+") as file:
        group = file[original.layers[0].name]
        for name in group.attrs["weight_names"]:
            if "bias" in name:
                del group[name]
                group[name] = rng.normal(0, 1, 2 * 4 * gates).astype(np.float32)
    config = json.loads(paths[0].read_text())
    wanted = _original(tmp_path / "net")
    outer = config["config"]["layers"][-1]
    inner = outer["config"]["layer"] if both else outer
    inner["class_name"] = f"CuDNN{layer.__name__}"
    keep = ("name", "units", "return_sequences", "go_backwards", "batch_input_shape")
    inner["config"] = {key: value for key, value in inner["config"].items() if key in keep}
    outer["config"].pop("backward_layer", None)
    paths[0].write_text(json.dumps(config))
    _assert_same(load_legacy(*paths).model, wanted)


def test_old_spellings(tmp_path):
    """JSON in a string, a bare list of layers, NumPy numbers, an option that was not there yet."""
    original = _chain(
        L.GRU(4, input_shape=(5, 3), reset_after=False, return_sequences=True),
        L.ReLU(max_value=0.4),
        L.LeakyReLU(0.2),
        L.GRU(2, reset_after=False),
    )
    _randomise(original)
    config = json.loads(original.to_json())
    layers = [layer for layer in config["config"]["layers"] if layer["class_name"] != "InputLayer"]
    layers[0]["config"]["batch_input_shape"] = [None, 5, 3]
    for layer in layers:
        for key in ("module", "registered_name", "build_config"):
            layer.pop(key, None)
        layer["config"].pop("reset_after", None)
    layers[1]["config"]["max_value"] = {"type": "ndarray", "value": 0.4}
    layers[2]["config"]["alpha"] = {"type": "ndarray", "value": 0.2}
    layers[3]["config"]["dtype"] = {"class_name": "Policy", "config": {"name": "float32"}}
    old = {"class_name": "Sequential", "config": layers}
    paths = _save(original, tmp_path / "net", text=json.dumps(json.dumps(old)))
    _assert_same(load_legacy(*paths).model, original)


def test_weights_are_matched_by_name_then_by_order(tmp_path):
    original = _norms()
    _randomise(original)
    paths = _save(original, tmp_path / "net")
    with h5py.File(paths[1], "r+") as file:
        file.attrs["layer_names"] = list(reversed(file.attrs["layer_names"]))
    _assert_same(load_legacy(*paths).model, original)
    config = json.loads(paths[0].read_text())
    for k, layer in enumerate(config["config"]["layers"]):
        layer["config"]["name"] = f"other_{k}"
    with h5py.File(paths[1], "r+") as file:
        file.attrs["layer_names"] = list(reversed(file.attrs["layer_names"]))
    paths[0].write_text(json.dumps(config))
    _assert_same(load_legacy(*paths).model, original)


def test_many_layers_have_their_names_in_parts(tmp_path):
    """Keras splits an attribute that is longer than HDF5 allows."""
    original = _chain(L.Dense(2, input_shape=(2,)), L.Dense(1))
    _randomise(original)
    paths = _save(original, tmp_path / "net")
    with h5py.File(paths[1], "r+") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        for k, name in enumerate(names):
            file.attrs[f"layer_names{k}"] = [name]
    _assert_same(load_legacy(*paths).model, original)


# Into the zoo


def _table():
    """Name the nine pairs by their networks, as the configuration of the original service does."""
    return {
        f"{family}_{architecture.lower()}": f"{project}_{architecture}_2018120{k}_151757"
        for k, (family, project) in enumerate(PROJECTS.items())
        for architecture in PUBLISHED
    }


def _configuration(folder, table):
    models = {name: f"{base}.h5" for name, base in table.items()}
    (folder / "config.json").write_text(json.dumps({"server": {"port": 1}, "models": models}))
    return folder / "config.json"


def test_the_nine_published_pairs_are_found(tmp_path):
    table = _table()
    for base in table.values():
        for suffix in (".architecture.json", ".weights.h5"):
            (tmp_path / f"{base}{suffix}").touch()
    for config in (_configuration(tmp_path, table), None):
        found = find_sources(tmp_path, config)
        assert {name: source.base for name, source in found.items()} == table


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Three of the nine pairs, each architecture and each family among them, with a configuration of the service."""
    folder, table = tmp_path_factory.mktemp("published"), _table()
    chosen = {name: table[name] for name in ("rb_resnet50", "sl_vgg6", "kd_densenet121")}
    for k, (name, base) in enumerate(chosen.items()):
        write_pair(folder, base, base.split("_")[1], seed=k, twice=name.startswith("sl"))
    _configuration(folder, chosen)
    return folder


def _run(*arguments):
    """Run the command line in this process."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_published_pairs_are_imported_and_score_a_night(published, tmp_path):
    config = ["--config", published / "config.json"]
    imported = json.loads(
        _run("models", "import", published, *config, "--zoo", tmp_path / "zoo", "--json")
    )
    zoo = Zoo(tmp_path / "zoo")
    assert len(imported) == 3
    assert [card.to_dict() for card in zoo.list()] == imported
    for card in zoo.list():
        assert card.name == f"{card.family}_{card.architecture}"
        assert card.dtype == "float32"
        assert card.recipe["imported_from"] == "Keras 2"
        assert card.recipe["keras_version"] == "2.2.4"
        assert [name.rsplit(".", 2)[1] for name in card.recipe["files"]] == [
            "architecture",
            "weights",
        ]
        assert all(len(value) == 64 for value in card.recipe["files"].values())
        assert "Duev et al. 2019" in card.training_data["paper"]
        assert "Keras 2" in card.description

    cutouts = random_batch(3)
    cutouts.cutouts[1, :70] //= 8
    cutouts.cutouts[2, 50:90, 30:] = 200
    create_archive(tmp_path / "archive", shard=64)
    append_batches(tmp_path / "archive", [cutouts])
    here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with Client(processes=False, protocol="tcp", **here) as client:
        to = ["--scheduler", client.scheduler.address, "--batch", 3]
        _run("score", tmp_path / "archive", "--zoo", tmp_path / "zoo", *to)
    scores = open_run(tmp_path / "archive")
    assert scores.sizes["model"] == 3
    images = cutouts.cutouts[..., None].astype(np.float32) / 255
    for family, architecture in (("sl", "VGG6"), ("rb", "ResNet50"), ("kd", "densenet121")):
        (base,) = published.glob(f"{PROJECTS[family]}_{architecture}_*.json")
        wanted = np.asarray(_original(str(base).removesuffix(".architecture.json"))(images))[:, 0]
        found = scores["scores"].sel(model=f"{family}_{architecture.lower()}").values
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        assert 1e-3 < wanted.mean() < 1 - 1e-3
        assert wanted.std() > 2e-5
    assert len(np.unique(scores["scores"].values[0])) == 3


@pytest.fixture
def pair(tmp_path):
    """A folder with one published VGG6."""
    folder = tmp_path / "pair"
    folder.mkdir()
    base = f"{PROJECTS['rb']}_VGG6_20181207_151757"
    write_pair(folder, base, "VGG6")
    return folder / base


def test_names_come_from_files_without_a_configuration(pair, tmp_path):
    for project in (PROJECTS["sl"], "5c05bbdc826480000a95c0bf"):
        for suffix in (".architecture.json", ".weights.h5"):
            shutil.copy(f"{pair}{suffix}", pair.parent / f"{project}_VGG6_20181207{suffix}")
    cards = import_legacy(pair.parent, tmp_path / "zoo")
    assert [card.name for card in cards] == ["os_vgg6", "rb_vgg6", "sl_vgg6"]


def test_a_second_import_changes_nothing_and_another_network_needs_another_version(pair, tmp_path):
    first = import_legacy(pair.parent, tmp_path / "zoo")
    assert import_legacy(pair.parent, tmp_path / "zoo") == first
    write_pair(pair.parent, pair.name, "VGG6", seed=5)
    with pytest.raises(ModelError, match="--version"):
        import_legacy(pair.parent, tmp_path / "zoo")
    assert Zoo(tmp_path / "zoo").list() == first
    import_legacy(pair.parent, tmp_path / "zoo", version="2")
    assert len(Zoo(tmp_path / "zoo").list()) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rb_vgg6": "../pair"}, "base name"),
        ({"rb_vgg6": "other"}, "other.architecture.json is missing"),
        ({"../rb": "other"}, "not valid"),
        ({"rb_vgg6": 3}, "table"),
        ({}, "table"),
        ([], "table"),
        ("{", "JSON"),
    ],
)
def test_configurations_that_name_no_networks(pair, config, message):
    path = pair.parent / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelError, match=message):
        find_sources(pair.parent, path)


def test_the_services_table_names_networks_that_were_not_published(pair):
    path = pair.parent / "config.json"
    table = {"rb_vgg6": pair.name, "os_vgg6": "not_published"}
    path.write_text(json.dumps({"models": table}))
    assert list(find_sources(pair.parent, path)) == ["rb_vgg6"]
    pair.with_name("not_published.architecture.json").touch()
    with pytest.raises(ModelError, match=r"not_published\.weights\.h5 is missing"):
        find_sources(pair.parent, path)
    path.write_text(json.dumps({"rb_vgg6": pair.name, "sl_vgg6": "lost"}))
    with pytest.raises(ModelError, match=r"lost\.architecture\.json is missing"):
        find_sources(pair.parent, path)


def test_folders_that_do_not_say_what_they_hold(pair, tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        find_sources(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no"):
        find_sources(tmp_path / "empty")
    other = pair.with_name(f"{PROJECTS['rb']}_VGG6_20200101")
    for suffix in (".architecture.json", ".weights.h5"):
        shutil.copy(f"{pair}{suffix}", f"{other}{suffix}")
    with pytest.raises(ModelError, match="both rb_vgg6"):
        find_sources(pair.parent)
    Path(f"{other}.architecture.json").unlink()
    Path(f"{pair}.architecture.json").unlink()
    with pytest.raises(ModelError, match=r"architecture\.json is missing"):
        find_sources(pair.parent)
    shutil.copy(f"{pair}.weights.h5", pair.parent / "mine.h5")
    Path(f"{pair}.weights.h5").unlink()
    Path(f"{other}.weights.h5").unlink()
    with pytest.raises(ModelError, match="--config"):
        find_sources(pair.parent)


def test_one_bad_network_keeps_all_out(pair, tmp_path):
    write_pair(pair.parent, f"{PROJECTS['sl']}_VGG6_20181207", "VGG6")
    with h5py.File(pair.parent / f"{PROJECTS['sl']}_VGG6_20181207.weights.h5", "r+") as file:
        del file["conv2/conv2/bias:0"]
    with pytest.raises(ModelError, match=r"weights\.h5.*conv2"):
        import_legacy(pair.parent, tmp_path / "zoo")
    assert Zoo(tmp_path / "zoo").list() == []


def test_a_full_disk_leaves_the_zoo_as_it_was(pair, tmp_path, monkeypatch):
    write_pair(pair.parent, f"{PROJECTS['sl']}_VGG6_20181207", "VGG6")
    write = Zoo._write

    def full(self, path, data):
        if path.startswith("sl_vgg6") and path.endswith("card.json"):
            raise ModelError("no space left")
        write(self, path, data)

    monkeypatch.setattr(Zoo, "_write", full)
    with pytest.raises(ModelError, match="no space left"):
        import_legacy(pair.parent, tmp_path / "zoo")
    assert Zoo(tmp_path / "zoo").list() == []
    monkeypatch.setattr(Zoo, "_write", write)
    assert len(import_legacy(pair.parent, tmp_path / "zoo")) == 2


def _import_one(model, folder, zoo, **options):
    _randomise(model)
    folder.mkdir(exist_ok=True)
    _save(model, folder / "mine", **options)
    (folder / "config.json").write_text(json.dumps({"os_mine": "mine"}))
    return import_legacy(folder, zoo, config=folder / "config.json")


@pytest.mark.parametrize("whole", [False, True], ids=["pair", "whole"])
def test_any_other_network_is_kept_without_code(tmp_path, whole):
    original = _norms()
    (card,) = _import_one(original, tmp_path / "in", tmp_path / "zoo", whole=whole)
    assert (card.architecture, card.family, card.outputs) == ("keras", "os", 1)
    assert "paper" not in card.training_data
    _assert_same(Zoo(tmp_path / "zoo").load("os_mine"), original)


@pytest.mark.parametrize(
    "change",
    [
        ("pool_size", [2, 2], "MaxPooling2D", "AveragePooling2D"),
        ("activation", "tanh", "Conv2D", "Conv2D"),
    ],
    ids=["pooling", "activation"],
)
def test_weights_like_ours_in_another_network_are_not_taken_for_ours(tmp_path, pair, change):
    option, value, old, new = change
    config = json.loads(Path(f"{pair}.architecture.json").read_text())
    layer = next(item for item in config["config"]["layers"] if item["class_name"] == old)
    layer["class_name"], layer["config"][option] = new, value
    Path(f"{pair}.architecture.json").write_text(json.dumps(config))
    (card,) = import_legacy(pair.parent, tmp_path / "zoo")
    assert card.architecture == "keras"
    _assert_same(Zoo(tmp_path / "zoo").load(card.ref), _original(pair))


@pytest.mark.parametrize("name", ["recurrent", "several_ends"])
def test_networks_that_take_no_cutout_stay_out_of_the_zoo(tmp_path, name):
    with pytest.raises(ModelError, match="one cutout"):
        _import_one(NETWORKS[name](), tmp_path / "in", tmp_path / "zoo")


# What is refused


def _change_json(pair, change):
    path = Path(f"{pair}.architecture.json")
    config = json.loads(path.read_text())
    config = change(config) or config
    path.write_text(config if isinstance(config, str) else json.dumps(config))


def _layer(**changes):
    """Change the second layer, a convolution called ``conv2``."""

    def change(config):
        layer = config["config"]["layers"][1]
        layer["class_name"] = changes.pop("class_name", layer["class_name"])
        layer["config"] = changes.pop("config", layer["config"] | changes)

    return change


def _deep(config):
    nested = config
    for _ in range(40):
        nested = {"class_name": "Sequential", "config": {"name": "n", "layers": [nested]}}
    return nested


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_layer(class_name="Lambda"), "conv2.*Lambda"),
        (_layer(class_name="Mine"), "conv2.*Mine"),
        (_layer(class_name="TFOpLambda"), "conv2.*TFOpLambda"),
        (_layer(class_name="Custom>Mine"), "conv2"),
        (_layer(class_name=["Conv2D"]), "no class"),
        (_layer(activation="mine"), "conv2.*mine"),
        (
            _layer(activation={"class_name": "function", "config": "os.system"}),
            r"conv2.*os\.system",
        ),
        (_layer(activation={"class_name": "Dense", "config": {"units": 3}}), "conv2.*Dense"),
        (_layer(rate=3), "conv2.*rate"),
        (_layer(kernel_size=[3, -3]), "conv2"),
        (_layer(kernel_size="three"), "conv2"),
        (_layer(filters=17), "conv2.*shape"),
        (_layer(filters=10**7, kernel_size=[100, 100]), "conv2.*needs a weight"),
        (_layer(filters=10**30), "conv2.*too large"),
        (_layer(use_bias=False), "conv2.*weights"),
        (
            _layer(class_name="ReLU", config={"name": "conv2"}),
            r"weights\.h5.*surplus: conv2",
        ),
        (
            _layer(class_name="UpSampling2D", config={"name": "conv2", "size": [999, 999]}),
            "too large",
        ),
        (_layer(class_name="Conv2D", config=[]), "no configuration"),
        (_layer(class_name="RNN", config={"name": "conv2", "cell": 3}), "no class"),
        (
            lambda config: config["config"]["layers"].append(config["config"]["layers"][1]),
            "same name",
        ),
        (lambda config: config["config"].update(layers=[]), "lists no layers"),
        (
            lambda config: (
                config["config"]["layers"][0]["config"].pop("batch_input_shape") and None
            ),
            "shape",
        ),
        (
            lambda config: config["config"]["layers"][0]["config"].update(batch_input_shape=[0.5]),
            "shape",
        ),
        (lambda config: {"class_name": "Dense", "config": {}}, "no Sequential"),
        (lambda config: config.update(keras_version="3.1.0"), "Keras 3.1.0"),
        (lambda config: config.update(keras_version="1.2.2"), "Keras 1.2.2"),
        (lambda config: [config], "no table"),
        (lambda config: json.dumps(config)[:-200], "JSON"),
        (lambda config: json.dumps(config).replace("0.25", "NaN"), "NaN"),
        (lambda config: '{"a":' * 200_000, "JSON"),
        (lambda config: "[" * 200_000, "JSON"),
        (_deep, "nested"),
    ],
)
def test_hostile_or_wrong_architectures(pair, tmp_path, change, message):
    _change_json(pair, change)
    with pytest.raises(ModelError, match=message) as caught:
        import_legacy(pair.parent, tmp_path / "zoo")
    assert pair.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert Zoo(tmp_path / "zoo").list() == []


def _functional(**changes):
    def change(config):
        layers = config["config"]["layers"]
        layers[2].update(copy.deepcopy(changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_functional(inbound_nodes=[[["relu", 0, 0, {}]]]), "circle"),
        (_functional(inbound_nodes=[[["none", 0, 0, {}]]]), "no call 0 of 'none'"),
        (_functional(inbound_nodes=[[["input_1", 0, 9, {}]]]), "no output 9"),
        (_functional(inbound_nodes=[[["input_1", 0, -1, {}]]]), "not known"),
        (_functional(inbound_nodes=[[["input_1", 0, 0, {"training": True}]]]), "training"),
        (_functional(inbound_nodes=[]), "not connected"),
        (_functional(inbound_nodes="input_1"), "not connected"),
        (_functional(name="input_1"), "no name"),
        (lambda config: config["config"].pop("output_layers"), "outputs"),
    ],
)
def test_wrong_connections(tmp_path, change, message):
    config, shapes = densenet121(sizes=(1, 1, 1, 1))
    change(config)
    (tmp_path / "net.architecture.json").write_text(json.dumps(config))
    names = [layer["name"] for layer in config["config"]["layers"]]
    write_weights(tmp_path / "net.weights.h5", list(dict.fromkeys(names)), random_weights(shapes))
    with pytest.raises(ModelError, match=message):
        load_legacy(tmp_path / "net.architecture.json", tmp_path / "net.weights.h5")


BIAS = "conv2/conv2/bias:0"


def _replace(name, make):
    def change(file, folder):
        del file[name]
        make(file, name, folder)

    return change


def _external_storage(file, name, folder):
    (folder / "secret.bin").write_bytes(bytes(64))
    file.create_dataset(name, (16,), "f4", external=[(str(folder / "secret.bin"), 0, 64)])


def _virtual(file, name, folder):
    layout = h5py.VirtualLayout((16,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (16,))
    file.create_virtual_dataset(name, layout)


def _external_link(file, name, folder):
    file[name] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _set(name, value):
    return _replace(name, lambda file, name, _: file.create_dataset(name, data=value))


def _pickled(file, name, _):
    dataset = file.create_dataset(name, (16,), h5py.special_dtype(vlen=bytes))
    dataset[0] = b"\x80\x04cos\nsystem\n."


def _attribute(group, name, value):
    return lambda file, _: file[group].attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replace(BIAS, lambda *_: None), "conv2.*missing"),
        (_replace("conv2", lambda *_: None), "conv2.*missing"),
        (_set(BIAS, np.zeros(17, "f4")), "conv2.*shape"),
        (_set(BIAS, np.zeros((4, 4), "f4")), "conv2.*shape"),
        (_set(BIAS, np.full(16, np.nan, "f4")), "conv2.*finite"),
        (_set(BIAS, np.zeros(16, "c8")), "conv2.*plain numbers"),
        (_set(BIAS, np.array([b"x"] * 16)), "conv2.*plain numbers"),
        (_replace(BIAS, _pickled), "conv2.*plain numbers"),
        (_replace(BIAS, _external_link), "conv2.*link"),
        (_replace(BIAS, _external_storage), "conv2.*outside"),
        (_replace(BIAS, _virtual), "conv2.*outside"),
        (_replace(BIAS, lambda f, n, _: f.__setitem__(n, h5py.SoftLink("/conv1"))), "conv2.*link"),
        (_replace(BIAS, lambda f, n, _: f.create_group(n)), "conv2.*dataset"),
        (_replace(BIAS, lambda f, n, _: f.create_dataset(n, (16,), "f4")), "conv2.*never written"),
        (
            _replace(
                BIAS,
                lambda f, n, _: f.create_dataset(n, (10**12,), "f4", chunks=(64,)).__setitem__(
                    0, 1.0
                ),
            ),
            "declares",
        ),
        (_attribute("conv2", "weight_names", [b"conv2/kernel:0"]), "bias.*belongs to no layer"),
        (_attribute("conv2", "weight_names", np.array([1, 2])), "no names"),
        (_attribute("conv2", "weight_names", [b"/../x", b"y"]), "missing"),
        (_attribute("/", "layer_names", [b"conv1", b"conv1"]), "twice"),
        (_attribute("/", "keras_version", b"1.0.8"), "Keras 1.0.8"),
        (_attribute("/", "backend", b"theano"), "Theano"),
        (lambda file, _: file.create_dataset("extra", data=np.zeros(3)), "belongs to no layer"),
        (lambda file, _: file.attrs.__delitem__("layer_names"), "layer_names"),
        (lambda file, _: file["conv1"].__setitem__("loop", h5py.SoftLink("/")), "link"),
    ],
)
def test_hostile_or_wrong_weights(pair, tmp_path, change, message):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(16, "f4")
    with h5py.File(f"{pair}.weights.h5", "r+") as file:
        change(file, tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        import_legacy(pair.parent, tmp_path / "zoo")
    assert pair.name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert Zoo(tmp_path / "zoo").list() == []


def test_surplus_layer_in_the_weights(pair):
    with h5py.File(f"{pair}.weights.h5", "r+") as file:
        file.create_group("more").attrs["weight_names"] = [b"w"]
        file["more/w"] = np.zeros(3, "f4")
        names = [str(name).encode() for name in file.attrs["layer_names"]]
        file.attrs["layer_names"] = [*names, b"more"]
    with pytest.raises(ModelError, match="surplus: more"):
        load_legacy(f"{pair}.architecture.json", f"{pair}.weights.h5")


def test_a_group_in_itself_does_no_harm(pair):
    with h5py.File(f"{pair}.weights.h5", "r+") as file:
        file["conv1"]["itself"] = file["conv1"]
    load_legacy(f"{pair}.architecture.json", f"{pair}.weights.h5")


@pytest.mark.parametrize("keep", [0, 10, 500, 3000, 1_000_000, 8_000_000])
def test_truncated_weights(pair, keep):
    path = Path(f"{pair}.weights.h5")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=path.name):
        load_legacy(f"{pair}.architecture.json", path)


def test_files_that_are_too_large_or_missing(pair, monkeypatch):
    with pytest.raises(ModelError, match="cannot read"):
        load_legacy(f"{pair}.none.json", f"{pair}.weights.h5")
    with pytest.raises(ModelError, match="weights only"):
        load_legacy(f"{pair}.weights.h5")
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="larger"):
        load_legacy(f"{pair}.architecture.json", f"{pair}.weights.h5")


# Mutated at random


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network with nested, recurrent, normalised and merged layers, in a file of 60 kB."""
    image = tf_keras.Input((6, 6, 1))
    inner = _chain(L.Conv2D(2, 3, input_shape=(6, 6, 1)), L.BatchNormalization())
    x = inner(image)
    x = L.Add()([x, L.Activation("relu")(x)])
    x = L.Bidirectional(L.GRU(2))(L.Reshape((4, 8))(x))
    original = tf_keras.Model(image, L.Dense(1, activation="sigmoid")(x))
    _randomise(original)
    return _save(original, tmp_path_factory.mktemp("small") / "net")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NASTY = st.sampled_from(
    [
        -1,
        0,
        2**31,
        2**63,
        1e308,
        "",
        "Lambda",
        "../x",
        [],
        {},
        [[]],
        [None],
        "relu",
        "net",
        "conv2d",
        10**6,
    ]
)
VALUES = NASTY | st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


def _places(value, path=()):
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from _places(inner, (*path, key))


@cache
def _weights_of(path):
    return read_hdf5(path.read_bytes())


@given(st.data())
@settings(max_examples=FUZZ, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_json_is_read_or_refused(small, data):
    config = json.loads(small[0].read_text())
    places = list(_places(config))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places[1:]))
        inner = config
        try:
            for key in path:
                inner = inner[key]
            if data.draw(st.booleans()):
                inner[last] = data.draw(VALUES)
            else:
                del inner[last]
        except (KeyError, IndexError, TypeError):
            pass  # gone with an earlier change
    changed = small[0].with_name("changed.json")
    changed.write_text(json.dumps(config))
    weights = _weights_of(small[1])
    with patch.object(legacy, "read_hdf5", lambda _: weights), contextlib.suppress(ModelError):
        load_legacy(changed, small[1])


@given(st.data())
@settings(
    max_examples=max(FUZZ // 4, 20), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_mutated_hdf5_is_read_or_refused(small, data):
    content = bytearray(small[1].read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        # structure stands at the beginning of groups: mutate near it more often than in the middle
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 8, 127, 255]) | st.integers(0, 255))
    if data.draw(st.integers(0, 5)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    changed = small[1].with_name("changed.weights.h5")
    changed.write_bytes(content)
    with contextlib.suppress(ModelError):
        load_legacy(small[0], changed)
