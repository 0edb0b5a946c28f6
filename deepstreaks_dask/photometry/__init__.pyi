from .core import MOFFAT_BETA, Photometry, measure, measured_fwhm
from .features import METHODS, extract, feature_names, measure_objects

__all__ = [
    "METHODS",
    "MOFFAT_BETA",
    "Photometry",
    "extract",
    "feature_names",
    "measure",
    "measure_objects",
    "measured_fwhm",
]
