from .core import BETA, Photometry, measure, measured_fwhm
from .features import METHODS, extract, feature_names, measure_objects

__all__ = [
    "BETA",
    "METHODS",
    "Photometry",
    "extract",
    "feature_names",
    "measure",
    "measure_objects",
    "measured_fwhm",
]
