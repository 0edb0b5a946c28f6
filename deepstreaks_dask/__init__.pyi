from . import evaluation, models, plots, readers, review, scoring, training
from .apps.explore.launch import explore
from .archive.create import create_archive
from .archive.dataset import open_archive
from .archive.verification import verify
from .errors import DeepStreaksError
from .evaluation.calibration import calibrate
from .evaluation.decision_metrics import evaluate
from .evaluation.threshold_search import search_thresholds
from .export.candidates import export_candidates
from .models.zoo.store import Zoo
from .readers.ingestion import ingest
from .report.explanation_maps import explain
from .report.run_report import write_report
from .scoring.campaign import score
from .scoring.cluster import connect
from .scoring.decision import Decision
from .scoring.ensemble import Ensemble
from .scoring.runs import open_run
from .simulation.archives import simulate
from .training.members import train

__all__ = [
    "Decision",
    "DeepStreaksError",
    "Ensemble",
    "Zoo",
    "calibrate",
    "connect",
    "create_archive",
    "evaluate",
    "evaluation",
    "explain",
    "explore",
    "export_candidates",
    "ingest",
    "models",
    "open_archive",
    "open_run",
    "plots",
    "readers",
    "review",
    "score",
    "scoring",
    "search_thresholds",
    "simulate",
    "train",
    "training",
    "verify",
    "write_report",
]

__version__: str
