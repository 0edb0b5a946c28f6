from .attribution import Explainer
from .inference import Forward, compile_arrays, compile_forward, resizing, set_precision
from .registry import (
    ARCHITECTURES,
    CLASSIFIERS,
    PRECISIONS,
    build,
    check_precision,
    classifier_class,
    weight_shapes,
)

__all__ = [
    "ARCHITECTURES",
    "CLASSIFIERS",
    "Explainer",
    "Forward",
    "PRECISIONS",
    "build",
    "check_precision",
    "classifier_class",
    "compile_arrays",
    "compile_forward",
    "resizing",
    "set_precision",
    "weight_shapes",
]
