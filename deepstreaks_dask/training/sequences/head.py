"""Train once more the last layers of a network of sequences, by what the others say of every object.

The layers that look at stamps take nearly all of a training's time, and learn from every stamp; those that classify an
object learn from one set of numbers an object, and would take many more passes. So these are trained anew once the others
stand: what those say of the objects, turned over and with epochs left out as before, is computed a few times and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from deepstreaks_dask.models.inference import compile_arrays
from deepstreaks_dask.models.sequence.recurrent import Recurrent
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.seeds import seeded
from deepstreaks_dask.training.sequences.batches import Feed

HEAD_EPOCHS = 25
"""Through all views of all objects."""

_VIEWS_PER_OBJECT = 3  # of each object, turned over and thinned; besides, it is seen whole
_DROPOUT_RATE = (
    0.4  # of the numbers between the layers: there are many for the objects that there are
)
_BATCH_SIZE = 128
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 0.1  # of the weights
_MAX_LOSS_RATIO = (
    1.1  # a loss makes much of being too sure, which many passes teach beside the classes
)

LAST_LAYERS = (
    f"trained anew by what the others say: {HEAD_EPOCHS} passes through {_VIEWS_PER_OBJECT + 1} views of each object, "
    f"AdamW, dropout {_DROPOUT_RATE:.0%}"
)
"""What a model card says of it."""


def train_head(
    classifier: Recurrent,
    train: Feed,
    held_out: Feed,
    limit: float,
    *,
    on_epoch: OnEpoch | None = None,
) -> dict[str, list[float]]:
    """Train the network that classifies by what the rest of a network says, and take it unless it is worse.

    Parameters
    ----------
    classifier : Recurrent
        Trained; its layers ``standard`` and ``head`` are changed.
    train, held_out : Feed
        To learn from, and to measure on.
    limit : float
        The loss on the second before; one that is higher by a tenth is let pass, more is not.
    on_epoch : callable, optional
        Called after each pass, as if it were one more of the training.

    Returns
    -------
    dict
        The losses pass by pass, ``loss`` and ``val_loss``; if the last of the second is too high, nothing was changed.
    """
    model, recipe = classifier.model, train.recipe
    standard, head = model.get_layer(classifier.standard), model.get_layer(classifier.head)
    body = compile_arrays(keras.Model(model.inputs, standard.input))
    views = [train.at(None), *(train.at(recipe.epochs + k) for k in range(_VIEWS_PER_OBJECT))]
    told, labels, weights = _said(classifier, body, *views)
    others = _said(classifier, body, held_out)
    mean, variance = (f(told, axis=0, dtype=np.float64) for f in (np.mean, np.var))

    def standardised(numbers: np.ndarray) -> np.ndarray:
        numbers -= mean.astype(np.float32)
        numbers /= np.sqrt(variance + standard.epsilon).astype(np.float32)
        return numbers

    with seeded(recipe.seed):
        anew = keras.models.clone_model(head, clone_function=_with_more_left_out)
    rate = keras.optimizers.schedules.CosineDecay(
        _LEARNING_RATE, -(-len(labels) // _BATCH_SIZE) * HEAD_EPOCHS
    )
    anew.compile(
        keras.optimizers.AdamW(rate, weight_decay=_WEIGHT_DECAY, clipnorm=1.0),
        loss="sparse_categorical_crossentropy",
        jit_compile=keras.backend.backend() == "jax",
    )

    def after(number: int, losses: Mapping[str, float]) -> None:
        if on_epoch is not None:
            on_epoch(recipe.epochs + number, losses)

    history = anew.fit(
        standardised(told),
        labels,
        sample_weight=weights,
        validation_data=(standardised(others[0]), *others[1:]),
        batch_size=_BATCH_SIZE,
        epochs=HEAD_EPOCHS,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=after)],
        verbose=0,
    ).history
    if history["val_loss"][-1] < _MAX_LOSS_RATIO * limit:
        head.set_weights(anew.get_weights())
        standard.set_weights([np.ones_like(mean), np.zeros_like(mean), mean, variance])
    return {key: [float(value) for value in values] for key, values in history.items()}


def _with_more_left_out(layer: keras.Layer) -> keras.Layer:
    """Make a layer like another; a dropout leaves out more, or so many passes would learn by heart."""
    if isinstance(layer, keras.layers.Dropout):
        return keras.layers.Dropout(_DROPOUT_RATE)
    return layer.__class__.from_config(layer.get_config())


def _said(
    classifier: Recurrent, body: Callable[..., np.ndarray], *feeds: Feed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let the layers before the head look at objects: numbers (object, n), and their labels and weights (object)."""
    told, labels, weights = [], [], []
    for feed in feeds:
        for k in range(len(feed)):
            given, label, weight = feed[k]
            told.append(body(*(given[name] for name in classifier.inputs)))
            labels.append(label)
            weights.append(weight)
    return np.concatenate(told), np.concatenate(labels), np.concatenate(weights)
