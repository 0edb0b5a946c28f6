"""What a member that classifies sequences is: a network, a forest of trees, or whatever else gives probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from deepstreaks_dask.archive.sequences import Sequences


class Classifier(Protocol):
    """A classifier of objects by their sequences of stamps.

    A class that has this becomes an architecture by an entry in
    `deepstreaks_dask.models.registry.CLASSIFIERS`, in every process.
    Then cards may name it, a zoo saves and loads its members, and campaigns score with them. It is all numbers: nothing
    of it is pickled.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""

    def predict(self, sequences: Sequences) -> np.ndarray:
        """Return the probability of each class, float32 ``(object, class)``, finite and in 0..1.

        What it gives for an object should depend on that object alone, but for the last bits.
        """

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return what it has learned: arrays of any shape by name, as a safetensors file of the zoo holds them."""

    @classmethod
    def from_arrays(cls, classes: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Classifier:
        """Return the classifier that `to_arrays` returned the arrays of.

        Parameters
        ----------
        classes : sequence of str
            Names of the classes, in the order of the scores.
        arrays : mapping of str to ndarray
            As :meth:`to_arrays` returns them.

        Raises
        ------
        ModelError
            If the arrays do not fit: they may come from a stranger's file.
        """
