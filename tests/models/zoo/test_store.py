"""The zoo keeps models whole, gives back what was saved, and refuses what is unsafe."""

import hashlib
import json
import zipfile
from pathlib import Path

import fsspec
import keras
import numpy as np
import pytest
import safetensors.numpy
from keras.src.saving.serialization_lib import SafeModeScope
from shallow import shallow

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.serialization import load_keras
from deepstreaks_dask.models.zoo.store import Zoo, find_weights


@pytest.fixture(scope="module")
def model():
    return build("vgg6")


@pytest.fixture(scope="module")
def small():
    """Any other network, for `.keras` files."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((144, 144, 1)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


@pytest.fixture
def zoo(tmp_path):
    return Zoo(tmp_path / "zoo")


def _files(zoo):
    root = Path(zoo.url)
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def _weights(model):
    return [weight.numpy() for weight in model.weights]


@pytest.mark.parametrize(("resizes", "shape"), [(True, (36, 48, 1)), (False, (144, 144, 1))])
def test_cutouts_of_another_size_are_resized_where_the_card_says_so(zoo, small, resizes, shape):
    card = zoo.save(small, Card("rb_small", "1", "keras", resizes=resizes))
    assert card.takes((36, 48)) == shape
    assert zoo.load("rb_small", (36, 48)).input_shape[1:] == shape
    assert zoo.load("rb_small").input_shape[1:] == (144, 144, 1)


def test_float32_round_trip_is_exact(zoo, model):
    zoo.save(model, Card("rb_vgg6", "1", "vgg6"), dtype="float32")
    for loaded, saved in zip(_weights(zoo.load("rb_vgg6")), _weights(model), strict=True):
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.parametrize("architecture", ["vgg6", "resnet50", "densenet121"])
def test_float16_round_trip_rounds_kernels_only(zoo, architecture):
    with shallow():
        model = build(architecture)
        card = zoo.save(model, Card(f"rb_{architecture}", "1", architecture))
        loaded = zoo.load(card.ref)
    assert card.dtype == "float16"
    assert (Path(zoo.url) / card.name / "1" / card.file).stat().st_size < 2.2 * model.count_params()
    for found, saved in zip(_weights(loaded), _weights(model), strict=True):
        assert found.dtype == np.float32
        rounded = saved.astype(np.float16).astype(np.float32) if saved.ndim > 1 else saved
        np.testing.assert_array_equal(found, rounded)


def test_the_card_comes_back_as_it_was_saved(zoo, model):
    card = Card(
        "sl_vgg6",
        "2026.11",
        "vgg6",
        recipe={"seed": 7, "learning_rate": 1e-3},
        training_data={"cutouts": 1000, "source": "simulated"},
        metrics={"auc": 0.99},
        description="Short or long.",
        limits="Not for other cameras: 1.01″ a pixel only.",
    )
    saved = zoo.save(model, card)
    assert saved.family == "sl"
    assert saved.created.endswith("+00:00")
    assert len(saved.sha256) == 64
    assert zoo.card("sl_vgg6") == saved
    assert zoo.list() == [saved]
    assert Card.from_dict(json.loads(json.dumps(saved.to_dict()))) == saved


def test_the_same_weights_make_the_same_file(tmp_path, model):
    cards = [
        Zoo(tmp_path / where).save(model, Card("rb_vgg6", "1", "vgg6")) for where in ("a", "b")
    ]
    assert cards[0].sha256 == cards[1].sha256


def test_newest_version_is_the_default_and_numbers_count_as_numbers(zoo, small):
    for version in ("2026.9", "2026.11", "2026.10"):
        zoo.save(small, Card("rb_small", version, "keras"))
    assert [card.version for card in zoo.list()] == ["2026.9", "2026.10", "2026.11"]
    assert zoo.card("rb_small").version == "2026.11"
    assert zoo.card("rb_small@2026.9").version == "2026.9"


def test_an_existing_version_is_only_replaced_when_asked(zoo, model):
    first = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    other = build("vgg6")
    with pytest.raises(ModelError, match="already"):
        zoo.save(other, Card("rb_vgg6", "1", "vgg6"))
    assert zoo.card("rb_vgg6") == first
    second = zoo.save(other, Card("rb_vgg6", "1", "vgg6"), overwrite=True)
    assert zoo.card("rb_vgg6").sha256 == second.sha256 != first.sha256
    assert _files(zoo) == ["rb_vgg6/1/card.json", f"rb_vgg6/1/{second.file}"]


def test_a_save_that_dies_before_the_card_changes_nothing(zoo, model, monkeypatch):
    first = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    write = Zoo._write

    def dies_at_the_card(self, path, data):
        if path.endswith("card.json"):
            raise KeyboardInterrupt
        write(self, path, data)

    monkeypatch.setattr(Zoo, "_write", dies_at_the_card)
    with pytest.raises(KeyboardInterrupt):
        zoo.save(build("vgg6"), Card("rb_vgg6", "1", "vgg6"), overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        zoo.save(model, Card("rb_vgg6", "2", "vgg6"))
    assert zoo.list() == [first]
    zoo.load("rb_vgg6")


def test_a_write_that_dies_leaves_the_old_file(zoo, model, monkeypatch):
    first = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    before = _files(zoo)

    def dies(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(ModelError, match="disk full"):
        zoo.save(build("vgg6"), Card("rb_vgg6", "1", "vgg6"), overwrite=True)
    assert _files(zoo) == before
    assert zoo.card("rb_vgg6") == first


def test_changed_weights_are_refused(zoo, model):
    card = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    path = Path(zoo.url) / "rb_vgg6" / "1" / card.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged or were changed"):
        zoo.load("rb_vgg6")
    assert len(zoo.verify()) == 1
    path.unlink()
    with pytest.raises(ModelError, match="cannot read"):
        zoo.load("rb_vgg6")


def test_verify_finds_nothing_wrong_with_a_sound_zoo(zoo, model):
    zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    assert zoo.verify() == []


@pytest.mark.parametrize("name", ["..", ".", "../rb", "a/b", "/etc", "a\\b", "", ".hidden", "a b"])
def test_names_that_lead_elsewhere_are_refused(zoo, name):
    with pytest.raises(ModelError, match="not valid"):
        Card(name, "1", "vgg6")
    with pytest.raises(ModelError, match="not valid"):
        Card("rb_vgg6", name, "vgg6")
    with pytest.raises(ModelError, match="not valid"):
        zoo.load(f"rb_vgg6@{name}")
    with pytest.raises(ModelError, match="not valid"):
        zoo.load(f"{name}@1")


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../secret.safetensors"},
        {"file": "weights.pkl"},
        {"sha256": "abc"},
        {"input_shape": [144, 144]},
        {"outputs": 0},
        {"architecture": "alexnet"},
        {"dtype": "int8"},
        {"metrics": "good"},
        {"surprise": 1},
        {"version": "2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_card_that_is_not_valid_is_refused(zoo, model, change):
    card = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    path = Path(zoo.url) / "rb_vgg6" / "1" / "card.json"
    path.write_text(json.dumps({**card.to_dict(), **change}))
    with pytest.raises(ModelError, match=r"rb_vgg6/1/card\.json"):
        zoo.load("rb_vgg6")


def test_an_unknown_model_names_the_nearest(zoo, small):
    with pytest.raises(ModelError, match="it is empty"):
        zoo.load("rb_vgg6")
    zoo.save(small, Card("rb_small", "1", "keras"))
    with pytest.raises(ModelError, match=r"did you mean 'rb_small'\? it has rb_small"):
        zoo.load("rb_smal")
    with pytest.raises(ModelError, match=r"no version '2' .* it has 1"):
        zoo.load("rb_small@2")


def test_a_model_that_is_not_what_its_card_says_is_refused(zoo, model, small):
    with pytest.raises(ModelError, match="is no 'resnet50'"):
        zoo.save(model, Card("rb_resnet50", "1", "resnet50"))
    with pytest.raises(ModelError, match="its card says"):
        zoo.save(model, Card("rb_vgg6", "1", "vgg6", outputs=2))
    assert zoo.list() == []


def test_values_that_half_precision_cannot_hold_are_refused(zoo):
    model = build("vgg6")
    kernel = model.layers[0].kernel
    kernel.assign(keras.ops.full(kernel.shape, 1e6))
    with pytest.raises(ModelError, match="cannot hold"):
        zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    zoo.save(model, Card("rb_vgg6", "1", "vgg6"), dtype="float32")


def test_weights_that_do_not_fit_are_refused(zoo, model):
    def replace(arrays):
        """Write other weights with a card that is right about their hash."""
        data = safetensors.numpy.save(arrays)
        sha256 = hashlib.sha256(data).hexdigest()
        folder = Path(zoo.url) / "rb_vgg6" / "1"
        (folder / card.file).write_bytes(data)
        (folder / "card.json").write_text(json.dumps({**card.to_dict(), "sha256": sha256}))

    card = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
    arrays = safetensors.numpy.load((Path(zoo.url) / "rb_vgg6" / "1" / card.file).read_bytes())
    first = next(name for name in sorted(arrays) if name.endswith("kernel"))
    replace({name: array for name, array in arrays.items() if name != first})
    with pytest.raises(ModelError, match=first):
        zoo.load("rb_vgg6")
    replace({**arrays, first: arrays[first].ravel()})
    with pytest.raises(ModelError, match=first):
        zoo.load("rb_vgg6")


def test_a_zoo_in_memory(model):
    zoo = Zoo("memory://test-zoo/models")
    try:
        card = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
        assert Zoo("memory://test-zoo/models").list() == [card]
        assert zoo.load("rb_vgg6@1").count_params() == model.count_params()
        with pytest.raises(ModelError, match="memory://test-zoo/models"):
            zoo.load("rb_vgg7")
    finally:
        fsspec.filesystem("memory").rm("/test-zoo", recursive=True)


def test_a_zoo_on_s3(model, monkeypatch):
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="models")
        zoo = Zoo("s3://models/zoo")
        assert zoo.list() == []
        first = zoo.save(model, Card("rb_vgg6", "1", "vgg6"))
        second = zoo.save(build("vgg6"), Card("rb_vgg6", "1", "vgg6"), overwrite=True)
        assert first.sha256 != second.sha256
        assert zoo.list() == [second]
        assert zoo.verify() == []
        with pytest.raises(ModelError, match="it is empty"):
            Zoo("s3://models/elsewhere").load("rb_vgg6")
    finally:
        server.stop()


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ModelError, match="cannot reach the zoo"):
        Zoo("gopher://models")


def test_a_keras_file_round_trip(zoo, small, tmp_path):
    small.save(tmp_path / "small.keras")
    zoo.save(load_keras(tmp_path / "small.keras"), Card("rb_small", "1", "keras"))
    cutouts = np.random.default_rng(0).random((2, 144, 144, 1), dtype=np.float32)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(zoo.load("rb_small")(cutouts)),
        keras.ops.convert_to_numpy(small(cutouts)),
    )


def _with_lambda():
    layers = keras.layers
    inner = keras.Sequential([layers.Input((144, 144, 1)), layers.Lambda(lambda x: x * 2)])
    return keras.Sequential(
        [layers.Input((144, 144, 1)), inner, layers.GlobalAveragePooling2D(), layers.Dense(1)]
    )


def test_a_keras_file_with_a_lambda_is_refused(zoo, tmp_path):
    model = _with_lambda()
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="Lambda"):
        load_keras(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match="Lambda"):
        zoo.save(model, Card("rb_lambda", "1", "keras"))
    assert zoo.list() == []


def test_a_lambda_is_refused_even_where_unsafe_loading_was_switched_on(tmp_path):
    _with_lambda().save(tmp_path / "lambda.keras")
    with SafeModeScope(False), pytest.raises(ModelError, match="Lambda"):
        load_keras(tmp_path / "lambda.keras")


@pytest.mark.parametrize("module", ["os", "builtins", "keras_evil.layers", "subprocess"])
def test_a_keras_file_with_a_class_from_elsewhere_is_refused(tmp_path, small, module):
    small.save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "evil.keras", "w") as evil,
    ):
        for name in good.namelist():
            data = good.read(name)
            if name == "config.json":
                config = json.loads(data)
                config["config"]["layers"][1]["module"] = module
                data = json.dumps(config).encode()
            evil.writestr(name, data)
    with pytest.raises(ModelError, match="not a part of Keras"):
        load_keras(tmp_path / "evil.keras")


def test_a_file_that_is_no_keras_file_is_refused(tmp_path):
    (tmp_path / "a.keras").write_bytes(b"\x80\x04not a zip")
    with pytest.raises(ModelError, match=r"no \.keras file"):
        load_keras(tmp_path / "a.keras")
    with pytest.raises(ModelError, match="cannot read"):
        load_keras(tmp_path / "missing.keras")


def test_every_shipped_model_is_sound():
    zoo = Zoo()
    if not zoo.list():
        pytest.skip("no weights are shipped yet")
    assert zoo.verify() == []


def test_the_very_weights_of_a_run_are_found_where_one_says(tmp_path):
    small = Card("rb_small", "1", "vgg6", input_shape=(32, 32, 1))
    other, own = Zoo(tmp_path / "other"), Zoo(tmp_path / "own")
    cards = []
    for seed, zoo in enumerate((other, own)):
        keras.utils.set_random_seed(seed)
        cards.append(zoo.save(build("vgg6", input_shape=(32, 32, 1)), small))
    store, card = find_weights(small.ref, cards[1].sha256, (other.url, own.url))
    assert (store.url, card) == (own.url, cards[1])
    for places in ((other.url,), (None,)):  # of the same name, or none of it
        with pytest.raises(ModelError, match="not here: name the --zoo"):
            find_weights(small.ref, cards[1].sha256, places)
