from .batches import Feed
from .experiments import finetune_in, train_folds
from .fit import figures, passes, probabilities, train_classifier
from .folds import draw_samples, fold_splits
from .head import HEAD_EPOCHS, train_head
from .labelled import Labelled
from .reproduce import settings_for

__all__ = [
    "Feed",
    "HEAD_EPOCHS",
    "Labelled",
    "draw_samples",
    "figures",
    "finetune_in",
    "fold_splits",
    "passes",
    "probabilities",
    "settings_for",
    "train_classifier",
    "train_folds",
    "train_head",
]
