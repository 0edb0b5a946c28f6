"""The light-curve baseline: photometry on the stamps, features of the light curves, a random forest.

It sees what the published baselines saw: the light curve of an object, and nothing of its pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import ModelError

TREE_COUNT = 400
FLUX_METHOD = "psf"

_MISSING_FEATURE = np.float32(
    -1e6
)  # what a feature that nobody knows is to a tree: below all others
_MIN_LEAF_SIZE = 2
_MAX_NODES = 20_000_000
_MAX_BANDS, _MAX_BAND_LENGTH = 16, 16
_OBJECTS_PER_PASS = 4096  # objects that go through the trees together


@dataclass(frozen=True)
class Trees:
    """All trees of a forest, node after node, tree after tree.

    Attributes
    ----------
    roots : ndarray
        int32 ``(tree,)``: the node where each begins.
    feature : ndarray
        int16 ``(node,)``: which feature a node asks for; -1 of a leaf.
    threshold : ndarray
        float32 ``(node,)``: an object whose feature is not larger goes to the left.
    left, right : ndarray
        int32 ``(node,)``: where to; of a leaf both are its row in ``share``.
    share : ndarray
        float16 ``(leaf, class)``: the classes' shares in each leaf.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, forest: Any) -> Trees:
        """Return the trees of a scikit-learn forest that was fitted on float32."""
        parts: dict[str, list[np.ndarray]] = {item.name: [] for item in fields(cls)}
        nodes = leaves = 0
        for estimator in forest.estimators_:
            tree = estimator.tree_
            leaf = tree.children_left < 0
            n = int(leaf.sum())
            own = np.where(leaf, np.cumsum(leaf) - 1 + leaves, 0)
            value = tree.value[leaf, 0]
            parts["roots"].append(np.array([nodes]))
            parts["feature"].append(np.where(leaf, -1, tree.feature))
            parts["threshold"].append(np.where(leaf, 0, _rounded_down(tree.threshold)))
            parts["left"].append(np.where(leaf, own, tree.children_left + nodes))
            parts["right"].append(np.where(leaf, own, tree.children_right + nodes))
            parts["share"].append(value / value.sum(axis=1, keepdims=True))
            nodes, leaves = nodes + len(leaf), leaves + n
        joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return cls(**{name: array.astype(_TYPES[name]) for name, array in joined.items()})

    def check(self, features: int, classes: int) -> None:
        """Check that no branch leads out of the trees or round in them.

        Parameters
        ----------
        features : int
            How many there are.
        classes : int
            How many there are.

        Raises
        ------
        ModelError
            What is wrong.
        """
        for name, dtype in _TYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != (2 if name == "share" else 1):
                raise ModelError(f"a forest's {name} is {array.dtype} {array.shape}")
        nodes, leaves = len(self.feature), len(self.share)
        if not 0 < nodes <= _MAX_NODES or {
            len(self.threshold),
            len(self.left),
            len(self.right),
        } != {nodes}:
            raise ModelError(f"a forest of {nodes} nodes whose parts are not as long")
        if not len(self.roots) or self.roots.min() < 0 or self.roots.max() >= nodes:
            raise ModelError("a forest's roots are none of its nodes")
        leaf = self.feature < 0
        here = np.arange(nodes)
        for child in (self.left, self.right):
            # children come after their parents, so that every way ends
            if (child[~leaf] <= here[~leaf]).any() or (child[~leaf] >= nodes).any():
                raise ModelError("a forest's nodes lead back, or out of it")
            if (child[leaf] < 0).any() or (child[leaf] >= leaves).any():
                raise ModelError("a forest's leaves have no classes")
        if self.feature.max(initial=-1) >= features:
            raise ModelError(f"a forest asks for more than the {features} features that there are")
        share = self.share.astype(np.float32)
        if share.shape[1] != classes or not ((share >= 0) & (share <= 1)).all():
            raise ModelError(f"a forest's leaves hold no shares of {classes} classes")
        if (np.abs(share.sum(axis=1) - 1) > 0.01).any():
            raise ModelError("the shares in a forest's leaves do not add up to 1")

    def predict(self, table: np.ndarray) -> np.ndarray:
        """Average the shares of the leaves that objects reach.

        Parameters
        ----------
        table : ndarray
            float32 ``(object, feature)``, NaN where not known.

        Returns
        -------
        ndarray
            float32 ``(object, class)``.
        """
        table = np.where(np.isfinite(table), table, _MISSING_FEATURE)
        given = [
            self._predict(table[k : k + _OBJECTS_PER_PASS])
            for k in range(0, len(table), _OBJECTS_PER_PASS)
        ]
        return np.concatenate(given) if given else np.empty((0, self.share.shape[1]), np.float32)

    def _predict(self, table: np.ndarray) -> np.ndarray:
        total = np.zeros((len(table), self.share.shape[1]))
        rows, share = np.arange(len(table)), self.share.astype(np.float32)
        for root in self.roots:
            node = np.full(len(table), root)
            while (inner := np.flatnonzero(self.feature[node] >= 0)).size:
                at = node[inner]
                low = table[rows[inner], self.feature[at]] <= self.threshold[at]
                node[inner] = np.where(low, self.left[at], self.right[at])
            total += share[self.left[node]]
        return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)


_TYPES: dict[str, np.dtype[Any]] = {
    "roots": np.dtype(np.int32),
    "feature": np.dtype(np.int16),
    "threshold": np.dtype(np.float32),
    "left": np.dtype(np.int32),
    "right": np.dtype(np.int32),
    "share": np.dtype(np.float16),
}


class Forest:
    """A classifier of sequences by their light curves.

    Parameters
    ----------
    classes : sequence of str
    trees : Trees
    bands : sequence of str
        Filters whose light curves it looks at.
    method : str
        Whose fluxes they are made of, one of :data:`~deepstreaks_dask.photometry.features.METHODS`.

    Raises
    ------
    ModelError
        If these do not fit each other.
    """

    def __init__(
        self, classes: Sequence[str], trees: Trees, bands: Sequence[str], method: str = FLUX_METHOD
    ) -> None:
        self.classes, self.trees = tuple(classes), trees
        self.bands, self.method = tuple(bands), method
        if method not in (known := _library().METHODS):
            raise ModelError(f"a forest of {method!r} photometry: it is one of {', '.join(known)}")
        if not 0 < len(self.bands) <= _MAX_BANDS or not all(
            isinstance(band, str) and 0 < len(band) <= _MAX_BAND_LENGTH for band in self.bands
        ):
            raise ModelError(f"a forest of the filters {self.bands}")
        trees.check(len(_library().feature_names(self.bands)), len(self.classes))

    @classmethod
    def fit(
        cls,
        sequences: Sequences,
        numbers: np.ndarray,
        classes: Sequence[str],
        *,
        seed: int = 0,
        method: str = FLUX_METHOD,
    ) -> Forest:
        """Grow a forest.

        Parameters
        ----------
        sequences : Sequences
            Objects to learn from.
        numbers : ndarray
            int ``(object,)``: the class of each, a place in ``classes``.
        classes : sequence of str
            Names.
        seed : int
            Equal seeds grow equal forests.
        method : str
            Whose fluxes, one of :data:`~deepstreaks_dask.photometry.features.METHODS`.

        Returns
        -------
        Forest
            Grown.

        Notes
        -----
        Classes weigh alike in each tree's own sample, however many objects each has (scikit-learn's
        ``balanced_subsample``; Chen, Liaw & Breiman 2004); a leaf has two objects at least.
        """
        from sklearn.ensemble import RandomForestClassifier

        bands = _bands(sequences)
        table = _library().extract(sequences, bands, method)
        grown = RandomForestClassifier(
            TREE_COUNT,
            class_weight="balanced_subsample",
            min_samples_leaf=_MIN_LEAF_SIZE,
            random_state=seed,
            n_jobs=-1,
        ).fit(np.where(np.isfinite(table), table, _MISSING_FEATURE), numbers)
        trees = Trees.of(grown)
        if len(grown.classes_) < len(classes):  # a class that nobody gave an example of
            share = np.zeros((len(trees.share), len(classes)), np.float16)
            share[:, grown.classes_] = trees.share
            trees = Trees(**{**vars(trees), "share": share})
        return cls(classes, trees, bands, method)

    def predict(self, sequences: Sequences) -> np.ndarray:
        """Return the probability of each class, float32 ``(object, class)``: the mean of the trees' leaves."""
        return self.trees.predict(_library().extract(sequences, self.bands, self.method))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the trees ``(node,)``, and in ``settings`` as JSON the filters, the photometry and the features' names."""
        settings = {
            "bands": self.bands,
            "method": self.method,
            "features": _library().feature_names(self.bands),
        }
        text = np.frombuffer(json.dumps(settings).encode(), np.uint8)
        return {**vars(self.trees), "settings": text}

    @classmethod
    def from_arrays(cls, classes: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Forest:
        """Return the forest that :meth:`to_arrays` returned the arrays of.

        Parameters
        ----------
        classes : sequence of str
            Names of the classes.
        arrays : mapping of str to ndarray
            As :meth:`to_arrays` returns them.

        Returns
        -------
        Forest
            Checked.

        Raises
        ------
        ModelError
            If the arrays are no forest, or its features are not those of the library that is installed.
        """
        if set(arrays) != {*_TYPES, "settings"} or arrays["settings"].dtype != np.uint8:
            raise ModelError(f"a forest has {', '.join(_TYPES)} and settings: these are others")
        try:
            settings = json.loads(arrays["settings"].tobytes())
            bands, method, names = (settings[key] for key in ("bands", "method", "features"))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"a forest's settings cannot be read ({error!r})") from error
        if not isinstance(bands, list) or not isinstance(method, str):
            raise ModelError("a forest's settings are of another kind")
        trees = Trees(**{name: np.asarray(arrays[name]) for name in _TYPES})
        made = cls(classes, trees, bands, method)
        if names != _library().feature_names(made.bands):
            raise ModelError(
                "a forest's features are not those of the light-curve that is installed: train it again"
            )
        return made


def _library() -> Any:
    """Import the module of features, whose libraries only forests need."""
    from deepstreaks_dask.photometry import features

    return features


def _bands(sequences: Sequences) -> list[str]:
    """Filters of some objects, the most used first."""
    names, counts = np.unique(np.asarray(sequences.epochs["band"], str), return_counts=True)
    order = np.lexsort((names, -counts))
    return [str(name) for name in names[order] if name][:_MAX_BANDS]


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """Return the largest single-precision numbers that are not larger: the same objects are not larger than these."""
    single = values.astype(np.float32)
    return np.where(single > values, np.nextafter(single, np.float32(-np.inf)), single)
