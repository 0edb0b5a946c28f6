"""Fit the last layers of a network of sequences once more, to the outputs of the other layers.

The layers that look at stamps take nearly all of a training's time, and learn from every stamp; those that classify an
object learn from one set of numbers an object, and would take many more passes. So these are trained anew after the others,
whose outputs for the objects, turned over and with epochs left out as before, are computed a few times and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from deepstreaks_dask.models.inference import compile_arrays
from deepstreaks_dask.models.sequence.recurrent import Recurrent
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.seeds import seeded
from deepstreaks_dask.training.sequences.batches import SequenceFeed

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
    1.1  # many passes make a network overconfident, which raises the loss and not the errors
)

HEAD_CARD_TEXT = (
    f"trained anew by what the others say: {HEAD_EPOCHS} passes through {_VIEWS_PER_OBJECT + 1} views of each object, "
    f"AdamW, dropout {_DROPOUT_RATE:.0%}"
)
"""How the last layers were trained, for model cards."""


def fit_head(
    classifier: Recurrent,
    train: SequenceFeed,
    held_out: SequenceFeed,
    limit: float,
    *,
    on_epoch: OnEpoch | None = None,
) -> dict[str, list[float]]:
    """Fit the head of a network to the outputs of its other layers, and keep the result unless it is worse.

    Parameters
    ----------
    classifier : Recurrent
        Trained; its layers ``standard`` and ``head`` are changed.
    train, held_out : SequenceFeed
        Objects to fit to, and to validate on.
    limit : float
        Validation loss of the network before; up to a tenth more is accepted.
    on_epoch : callable, optional
        Called after each pass, numbered as further epochs of the training.

    Returns
    -------
    dict
        Losses by pass, ``loss`` and ``val_loss``; if the last ``val_loss`` is too high, the network is unchanged.
    """
    model, recipe = classifier.model, train.recipe
    standard, head = model.get_layer(classifier.standard), model.get_layer(classifier.head)
    body = compile_arrays(keras.Model(model.inputs, standard.input))
    views = [train.at(None), *(train.at(recipe.epochs + k) for k in range(_VIEWS_PER_OBJECT))]
    outputs, labels, weights = _body_outputs(classifier, body, *views)
    others = _body_outputs(classifier, body, held_out)
    mean, variance = (f(outputs, axis=0, dtype=np.float64) for f in (np.mean, np.var))

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
        standardised(outputs),
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
    """Return a copy of a layer; a dropout drops more, since so many passes would overfit."""
    if isinstance(layer, keras.layers.Dropout):
        return keras.layers.Dropout(_DROPOUT_RATE)
    return layer.__class__.from_config(layer.get_config())


def _body_outputs(
    classifier: Recurrent, body: Callable[..., np.ndarray], *feeds: SequenceFeed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the outputs of the layers before the head (object, n), with the labels and weights (object)."""
    outputs, labels, weights = [], [], []
    for feed in feeds:
        for k in range(len(feed)):
            given, label, weight = feed[k]
            outputs.append(body(*(given[name] for name in classifier.inputs)))
            labels.append(label)
            weights.append(weight)
    return np.concatenate(outputs), np.concatenate(labels), np.concatenate(weights)
