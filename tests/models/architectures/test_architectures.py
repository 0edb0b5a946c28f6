"""The three networks have the published layout and depend on no backend."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

import deepstreaks_dask.models
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import ARCHITECTURES, build

PARAMETERS = {"vgg6": 2_114_033, "resnet50": 17_386_753, "densenet121": 7_032_257}


@pytest.fixture(scope="module", params=sorted(PARAMETERS))
def model(request):
    return build(request.param)


def test_every_architecture_has_a_published_count():
    assert set(ARCHITECTURES) == set(PARAMETERS)


def test_parameter_count_is_the_published_one(model):
    assert model.count_params() == PARAMETERS[model.name]


def test_scores_are_probabilities_one_a_cutout(model):
    cutouts = np.random.default_rng(0).random((3, 144, 144, 1), dtype=np.float32)
    scores = keras.ops.convert_to_numpy(model(cutouts, training=False))
    assert scores.shape == (3, 1)
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()
    assert len(np.unique(scores)) == 3, "scores must depend on the cutout"


def test_other_input_shape_and_outputs():
    model = build("vgg6", input_shape=(63, 63, 3), outputs=4)
    assert model.input_shape == (None, 63, 63, 3)
    assert model.output_shape == (None, 4)


def test_resnet_normalises_as_published():
    norms = [x for x in build("resnet50").layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {norm.epsilon for norm in norms} == {1e-3}
    momenta = [norm.momentum for norm in norms]
    assert momenta.count(0.1) == 4, "one projected shortcut in each of the four stages"
    assert momenta.count(0.2) == len(momenta) - 4


def test_densenet_is_the_one_of_keras_applications():
    """Keras's own DenseNet121 on one plane has the same weights, shape by shape."""
    theirs = keras.applications.DenseNet121(
        weights=None, input_shape=(144, 144, 1), classes=1, classifier_activation="sigmoid"
    )
    ours = build("densenet121")
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    ours.set_weights(theirs.get_weights())
    cutouts = np.random.default_rng(0).random((2, 144, 144, 1), dtype=np.float32)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(ours(cutouts, training=False)),
        keras.ops.convert_to_numpy(theirs(cutouts, training=False)),
        rtol=1e-6,
    )


def test_unknown_architecture_suggests_the_nearest():
    with pytest.raises(ModelError, match="did you mean 'resnet50'"):
        build("resnet5")


def test_only_branches_for_it_import_a_backend():
    folder = Path(deepstreaks_dask.models.__file__).parent
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text())
        # Where passes and gradients are compiled a backend may be imported inside a function, never at the top.
        nodes = tree.body if path.name in ("inference.py", "attribution.py") else ast.walk(tree)
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"tensorflow", "jax", "torch"}, path.name
