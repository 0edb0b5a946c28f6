"""The published networks as Keras 2.2.4 writes them: JSON and HDF5, layer by layer, with its names."""

import json

import h5py
import numpy as np

_ZEROS = {"class_name": "Zeros", "config": {}}
_ONES = {"class_name": "Ones", "config": {}}
_GLOROT = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None},
}


class Writer:
    """Writes layers down as they are called, in the order and with the options of Keras 2.2.4."""

    def __init__(self):
        self.layers = []
        self.shapes = {}  # of the weights
        self.counts = {}

    def auto(self, kind):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return f"{kind}_{self.counts[kind]}"

    def add(self, kind, name, below, **options):
        nodes = [[[below_name, 0, 0, {}] for below_name in below]] if below else []
        trainable = {} if kind == "InputLayer" else {"trainable": True}
        config = {"name": name, **trainable, **options}
        self.layers.append(
            {"name": name, "class_name": kind, "config": config, "inbound_nodes": nodes}
        )
        return name

    def conv(self, name, below, planes, filters, size, stride=1, padding="valid", **options):
        self.shapes[name] = {"kernel": (size, size, planes, filters)}
        if options.setdefault("use_bias", True):
            self.shapes[name]["bias"] = (filters,)
        return self.add(
            "Conv2D",
            name,
            [below],
            **{"activation": "linear"} | options,
            filters=filters,
            kernel_size=[size, size],
            strides=[stride, stride],
            padding=padding,
            data_format="channels_last",
            dilation_rate=[1, 1],
            kernel_initializer=_GLOROT,
            bias_initializer=_ZEROS,
            kernel_regularizer=None,
            bias_regularizer=None,
            activity_regularizer=None,
            kernel_constraint=None,
            bias_constraint=None,
        )

    def norm(self, name, below, planes, *, axis=3, momentum=0.2, epsilon=1e-3):
        kinds = ("gamma", "beta", "moving_mean", "moving_variance")
        self.shapes[name] = dict.fromkeys(kinds, (planes,))
        return self.add(
            "BatchNormalization",
            name,
            [below],
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=True,
            scale=True,
            beta_initializer=_ZEROS,
            gamma_initializer=_ONES,
            moving_mean_initializer=_ZEROS,
            moving_variance_initializer=_ONES,
            beta_regularizer=None,
            gamma_regularizer=None,
            beta_constraint=None,
            gamma_constraint=None,
        )

    def relu(self, below, name=None):
        return self.add("Activation", name or self.auto("activation"), [below], activation="relu")

    def pad(self, below, size):
        return self.add(
            "ZeroPadding2D",
            self.auto("zero_padding2d"),
            [below],
            padding=[[size, size], [size, size]],
            data_format="channels_last",
        )

    def pool(self, kind, name, below, size, stride):
        return self.add(
            kind,
            name,
            [below],
            pool_size=[size, size],
            padding="valid",
            strides=[stride, stride],
            data_format="channels_last",
        )

    def dense(self, name, below, inputs, units, activation):
        self.shapes[name] = {"kernel": (inputs, units), "bias": (units,)}
        return self.add(
            "Dense",
            name,
            [below],
            units=units,
            activation=activation,
            use_bias=True,
            kernel_initializer=_GLOROT,
            bias_initializer=_ZEROS,
            kernel_regularizer=None,
            bias_regularizer=None,
            activity_regularizer=None,
            kernel_constraint=None,
            bias_constraint=None,
        )

    def input(self):
        options = {"batch_input_shape": [None, 144, 144, 1], "dtype": "float32", "sparse": False}
        return self.add("InputLayer", "input_1", [], **options)

    def model(self, name):
        ends = {"input_layers": [["input_1", 0, 0]]}
        ends["output_layers"] = [[self.layers[-1]["name"], 0, 0]]
        return _whole("Model", {"name": name, "layers": self.layers, **ends})


def _whole(kind, config):
    return {
        "class_name": kind,
        "config": config,
        "keras_version": "2.2.4",
        "backend": "tensorflow",
    }


def vgg6():
    w = Writer()
    x = w.conv("conv1", "", 1, 16, 3, activation="relu")
    x = w.conv("conv2", x, 16, 16, 3, activation="relu")
    x = w.pool("MaxPooling2D", w.auto("max_pooling2d"), x, 2, 2)
    x = w.add("Dropout", w.auto("dropout"), [x], rate=0.25, noise_shape=None, seed=None)
    x = w.conv("conv3", x, 16, 32, 3, activation="relu")
    x = w.conv("conv4", x, 32, 32, 3, activation="relu")
    x = w.pool("MaxPooling2D", w.auto("max_pooling2d"), x, 4, 4)
    x = w.add("Dropout", w.auto("dropout"), [x], rate=0.25, noise_shape=None, seed=None)
    x = w.add("Flatten", w.auto("flatten"), [x], data_format="channels_last")
    x = w.dense("fc_1", x, 32 * 16 * 16, 256, "relu")
    x = w.add("Dropout", w.auto("dropout"), [x], rate=0.5, noise_shape=None, seed=None)
    w.dense("fc_out", x, 256, 1, "sigmoid")
    layers = [{key: layer[key] for key in ("class_name", "config")} for layer in w.layers]
    layers[0]["config"] |= {"batch_input_shape": [None, 144, 144, 1], "dtype": "float32"}
    return _whole("Sequential", {"name": "VGG6", "layers": layers}), w.shapes


def resnet50():
    w = Writer()
    x = w.pad(w.input(), 3)
    x = w.conv("conv1", x, 1, 64, 7, stride=2)
    x = w.relu(w.norm("bn_conv1", x, 64, axis=-1))
    x = w.pool("MaxPooling2D", w.auto("max_pooling2d"), x, 3, 2)
    planes = 64
    stages = (
        (3, 64, 64, 256, 1),
        (4, 128, 128, 512, 2),
        (6, 256, 256, 512, 2),
        (3, 512, 512, 1024, 2),
    )
    for stage, (blocks, a, b, c, first_stride) in enumerate(stages, 2):
        for block in "abcdef"[:blocks]:
            stride = first_stride if block == "a" else 1
            label = f"{stage}{block}_branch"
            y = w.conv(f"res{label}2a", x, planes, a, 1, stride)
            y = w.relu(w.norm(f"bn{label}2a", y, a, axis=-1))
            y = w.conv(f"res{label}2b", y, a, b, 3, padding="same")
            y = w.relu(w.norm(f"bn{label}2b", y, b, axis=-1))
            if block == "a":  # the shortcut's layers stand where Keras sorts them by depth
                shortcut = w.conv(f"res{label}1", x, planes, c, 1, stride)
                y = w.conv(f"res{label}2c", y, b, c, 1)
                shortcut = w.norm(f"bn{label}1", shortcut, c, axis=-1, momentum=0.1)
            else:
                shortcut = x
                y = w.conv(f"res{label}2c", y, b, c, 1)
            y = w.norm(f"bn{label}2c", y, c, axis=-1)
            x = w.relu(w.add("Add", w.auto("add"), [shortcut, y]))
            planes = c
    x = w.pool("AveragePooling2D", "avg_pool", x, 2, 2)
    x = w.add("Flatten", w.auto("flatten"), [x], data_format="channels_last")
    w.dense("fcOUT", x, 2 * 2 * 1024, 1, "sigmoid")
    return w.model("ResNet50"), w.shapes


def densenet121(sizes=(6, 12, 24, 16)):
    def normal(name, below, planes):
        x = w.norm(f"{name}bn", below, planes, epsilon=1.001e-5)
        return w.relu(x, f"{name}relu")

    w = Writer()
    x = w.pad(w.input(), 3)
    x = w.conv("conv1/conv", x, 1, 64, 7, stride=2, use_bias=False)
    x = w.pad(normal("conv1/", x, 64), 1)
    x = w.pool("MaxPooling2D", "pool1", x, 3, 2)
    planes = 64
    for stage, blocks in enumerate(sizes, 2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            y = normal(f"{name}_0_", x, planes)
            y = w.conv(f"{name}_1_conv", y, planes, 128, 1, use_bias=False)
            y = normal(f"{name}_1_", y, 128)
            y = w.conv(f"{name}_2_conv", y, 128, 32, 3, padding="same", use_bias=False)
            x = w.add("Concatenate", f"{name}_concat", [x, y], axis=3)
            planes += 32
        if stage < 5:
            x = normal(f"pool{stage}_", x, planes)
            x = w.conv(f"pool{stage}_conv", x, planes, planes // 2, 1, use_bias=False)
            x = w.pool("AveragePooling2D", f"pool{stage}_pool", x, 2, 2)
            planes //= 2
    x = w.norm("bn", x, planes, epsilon=1.001e-5)
    x = w.relu(x, "relu")
    x = w.add("GlobalAveragePooling2D", "avg_pool", [x], data_format="channels_last")
    w.dense("fc_out", x, planes, 1, "sigmoid")
    return w.model("densenet121"), w.shapes


PUBLISHED = {"VGG6": vgg6, "ResNet50": resnet50, "densenet121": densenet121}


def random_weights(shapes, seed=0):
    """Weights as large as trained ones, so that scores lie between 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(kind, shape):
        if kind == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if kind == "gamma":
            return rng.uniform(0.2, 0.8, shape)
        if kind == "moving_variance":
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, 0.1, shape)

    return {
        name: {kind: draw(kind, shape).astype(np.float32) for kind, shape in weights.items()}
        for name, weights in shapes.items()
    }


def write_weights(path, names, weights):
    """Write `model.save_weights()` of Keras 2.2.4: layers of `names` in order, most without weights."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"
        for name in names:
            group = file.create_group(name)
            kinds = weights.get(name, {})
            group.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in kinds]
            for kind, values in kinds.items():
                group[f"{name}/{kind}:0"] = values


def write_pair(folder, base, architecture, *, seed=0, twice=False):
    """Write one published pair; `twice` encodes the JSON as a string in JSON."""
    config, shapes = PUBLISHED[architecture]()
    text = json.dumps(config)
    (folder / f"{base}.architecture.json").write_text(json.dumps(text) if twice else text)
    names = [layer["config"]["name"] for layer in config["config"]["layers"]]
    write_weights(folder / f"{base}.weights.h5", names, random_weights(shapes, seed))
