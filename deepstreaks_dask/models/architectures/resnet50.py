"""ResNet50 as DeepStreaks has it: narrower than the textbook's in its last two stages."""

import keras
from keras import layers

# Blocks in a stage, filters of the three convolutions of each block, stride of the first block.
STAGES = (
    (3, (64, 64, 256), 1),
    (4, (128, 128, 512), 2),
    (6, (256, 256, 512), 2),
    (3, (512, 512, 1024), 2),
)
# Keras counts momentum as the share kept of the old mean: these averages follow each batch closely.
MOMENTUM = 0.2
SHORTCUT_MOMENTUM = 0.1


def resnet50(input_shape: tuple[int, int, int] = (144, 144, 1), outputs: int = 1) -> keras.Model:
    """Build ResNet50 of DeepStreaks with random weights.

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
        17,386,753 parameters with the default shape, 37,760 of them running statistics.

    References
    ----------
    Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920; He et al. 2016, CVPR, arXiv:1512.03385.
    """
    inputs = layers.Input(input_shape)
    x = layers.ZeroPadding2D(3)(inputs)
    x = layers.Conv2D(64, 7, strides=2)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(3, strides=2)(x)
    for blocks, filters, stride in STAGES:
        x = _bottleneck(x, filters, stride, project=True)
        for _ in range(blocks - 1):
            x = _bottleneck(x, filters, 1, project=False)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(outputs, activation="sigmoid")(x)
    return keras.Model(inputs, x, name="resnet50")


def _bottleneck(
    x: keras.KerasTensor, filters: tuple[int, int, int], stride: int, *, project: bool
) -> keras.KerasTensor:
    """Squeeze, convolve and widen, then add what came in (projected to the new shape if asked)."""
    squeeze, middle, widen = filters
    shortcut = x
    if project:
        shortcut = layers.Conv2D(widen, 1, strides=stride)(shortcut)
        shortcut = layers.BatchNormalization(momentum=SHORTCUT_MOMENTUM)(shortcut)

    x = layers.Conv2D(squeeze, 1, strides=stride)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(middle, 3, padding="same")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(widen, 1)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    return layers.ReLU()(layers.Add()([x, shortcut]))
