"""VGG6: six weighted layers, the smallest and fastest of the three DeepStreaks members."""

import keras
from keras import layers


def vgg6(input_shape: tuple[int, int, int] = (144, 144, 1), outputs: int = 1) -> keras.Model:
    """Build VGG6 of DeepStreaks with random weights.

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
        2,114,033 parameters with the default shape.

    References
    ----------
    Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920.
    """
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(4),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(outputs, activation="sigmoid"),
        ],
        name="vgg6",
    )
