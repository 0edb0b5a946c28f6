"""DenseNet121 as DeepStreaks has it: the textbook's, on one grey plane."""

import keras
from keras import layers

BLOCK_SIZES = (6, 12, 24, 16)
GROWTH_RATE = 32
COMPRESSION = 0.5
EPSILON = 1.001e-5


def densenet121(input_shape: tuple[int, int, int] = (144, 144, 1), outputs: int = 1) -> keras.Model:
    """Build DenseNet121 of DeepStreaks with random weights.

    Parameters
    ----------
    input_shape
        Height and width in px, and number of planes, of one cutout.
    outputs
        Number of sigmoid outputs.

    Returns
    -------
    keras.Model
        Takes float32 (cutout, y, x, plane) in 0..1 and gives float32 (cutout, output) in 0..1.
        7,032,257 parameters with the default shape, 83,648 of them running statistics.

    References
    ----------
    Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920; Huang et al. 2017, CVPR, arXiv:1608.06993.
    """
    inputs = layers.Input(input_shape)
    x = layers.ZeroPadding2D(3)(inputs)
    x = layers.Conv2D(64, 7, strides=2, use_bias=False)(x)
    x = _norm_relu(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, strides=2)(x)
    for stage, count in enumerate(BLOCK_SIZES):
        if stage:
            x = _transition(x)
        for _ in range(count):
            x = _dense_layer(x)
    x = _norm_relu(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(outputs, activation="sigmoid")(x)
    return keras.Model(inputs, x, name="densenet121")


def _norm_relu(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(epsilon=EPSILON)(x))


def _dense_layer(x: keras.KerasTensor) -> keras.KerasTensor:
    """Append `GROWTH_RATE` new feature maps, computed from all earlier ones."""
    new = layers.Conv2D(4 * GROWTH_RATE, 1, use_bias=False)(_norm_relu(x))
    new = layers.Conv2D(GROWTH_RATE, 3, padding="same", use_bias=False)(_norm_relu(new))
    return layers.Concatenate()([x, new])


def _transition(x: keras.KerasTensor) -> keras.KerasTensor:
    """Halve the number of feature maps, then their height and width."""
    x = layers.Conv2D(int(x.shape[-1] * COMPRESSION), 1, use_bias=False)(_norm_relu(x))
    return layers.AveragePooling2D(2)(x)
