"""The layers that networks from files may have: none of them runs code of anybody's own."""

_WITH_DIMENSIONS = (
    "AveragePooling",
    "Conv",
    "ConvLSTM",
    "Cropping",
    "GlobalAveragePooling",
    "GlobalMaxPooling",
    "MaxPooling",
    "SpatialDropout",
    "UpSampling",
    "ZeroPadding",
)
_OTHER_LAYERS = """
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average BatchNormalization Bidirectional
CenterCrop Concatenate Conv1DTranspose Conv2DTranspose Conv3DTranspose Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout
ELU Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise GroupNormalization Identity LSTM LSTMCell
LayerNormalization LeakyReLU Masking Maximum Minimum Multiply Normalization PReLU Permute RNN ReLU RepeatVector Rescaling
Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax StackedRNNCells Subtract
TimeDistributed UnitNormalization
"""
LAYERS = frozenset(_OTHER_LAYERS.split()) | {
    f"{name}{k}D" for name in _WITH_DIMENSIONS for k in (1, 2, 3)
}
"""Layers of Keras 2 that Keras 3 has, too."""

INERT_LAYERS = frozenset(
    {
        "RandomBrightness",
        "RandomContrast",
        "RandomFlip",
        "RandomHeight",
        "RandomRotation",
        "RandomTranslation",
        "RandomWidth",
        "RandomZoom",
        "StochasticDepth",
    }
)
"""Layers that change what passes through them in training only: augmentation, and what drops whole branches."""

OWN_LAYERS = frozenset({"LayerScale", "Operation"})
"""Layers of :mod:`deepstreaks_dask.models.keras2.layers`, for what Keras 2 has and Keras 3 has not."""

OWN_MODULE = "deepstreaks_dask.models.keras2.layers"
"""Module that these layers are in, as ``.keras`` files name it."""

OPERATION_LAYERS = frozenset({"SlicingOpLambda", "TFOpLambda"})
"""What Keras 2 makes of arithmetic and slices on the outputs of layers: calls of one function of TensorFlow by name."""

NETWORKS = frozenset({"Model", "Functional", "Sequential"})
"""Networks, which may be layers of others."""

MERGE_LAYERS = frozenset(
    {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"}
)
"""Layers that are called with a list."""

RECURRENT_LAYERS = frozenset(
    {"SimpleRNN", "GRU", "LSTM", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional"}
)
"""Layers that may be called with states beside their input."""
