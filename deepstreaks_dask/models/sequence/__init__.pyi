from .classifier import Classifier
from .forest import Forest, Trees
from .layers import (
    Apertures,
    Detections,
    Distribution,
    LightCurve,
    LongPeriods,
    Relative,
    StructureFunction,
    Visits,
)
from .periodogram import OnePeriodogram, Periodogram, memory
from .preprocessing import (
    FEATURES,
    STAMPS_PER_BATCH,
    Batch,
    Prepared,
    batched,
    cut,
    pad,
    padding,
    prepare,
)
from .rcnn import Rcnn
from .recurrent import STAMP_SIZE, Recurrent
from .taonet import Drift, Reference, TaoNet

__all__ = [
    "Apertures",
    "Batch",
    "Classifier",
    "Detections",
    "Distribution",
    "Drift",
    "FEATURES",
    "Forest",
    "LightCurve",
    "LongPeriods",
    "OnePeriodogram",
    "Periodogram",
    "Prepared",
    "Rcnn",
    "Recurrent",
    "Reference",
    "Relative",
    "STAMPS_PER_BATCH",
    "STAMP_SIZE",
    "StructureFunction",
    "TaoNet",
    "Trees",
    "Visits",
    "batched",
    "cut",
    "memory",
    "pad",
    "padding",
    "prepare",
]
