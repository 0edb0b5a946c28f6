from .batches import SequenceFeed
from .experiments import finetune, train_folds
from .fit import (
    SequenceClassifier,
    class_metrics,
    fit_classifier,
    max_epochs,
    predict_objects,
    train_classifier,
)
from .folds import draw_samples, fold_splits
from .head import HEAD_EPOCHS, fit_head
from .labelled import LabelledObjects
from .reproduce import settings_for

__all__ = [
    "HEAD_EPOCHS",
    "LabelledObjects",
    "SequenceClassifier",
    "SequenceFeed",
    "class_metrics",
    "draw_samples",
    "finetune",
    "fit_classifier",
    "fit_head",
    "fold_splits",
    "max_epochs",
    "predict_objects",
    "settings_for",
    "train_classifier",
    "train_folds",
]
