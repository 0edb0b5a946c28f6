from .append import AppendSummary, CutoutBatch, Quarantined, append_batches
from .attributes import provenance_of
from .corrections import LabelReport, RetractionReport, restore, retract, set_labels
from .create import create_archive
from .dataset import open_archive, shard_bounds, summary
from .hashing import digests
from .ingests import ingest_reports
from .pictures import grey
from .provenance import SIMULATED_KINDS, begins_simulated, simulated
from .query import MAX_FILTER_LENGTH, Filter, FilterError, Kind, complete, parse
from .retraction import stored_rows
from .schema import CHUNK, CUTOUT_SIZE, EPOCHS, SCHEMA, Column
from .sequences import MAX_EPOCHS, Sequences, Stretch, read_objects
from .store import quarantine, record_runs
from .verification import verify

__all__ = [
    "AppendSummary",
    "CHUNK",
    "CUTOUT_SIZE",
    "Column",
    "CutoutBatch",
    "EPOCHS",
    "Filter",
    "FilterError",
    "Kind",
    "LabelReport",
    "MAX_EPOCHS",
    "MAX_FILTER_LENGTH",
    "Quarantined",
    "RetractionReport",
    "SCHEMA",
    "SIMULATED_KINDS",
    "Sequences",
    "Stretch",
    "append_batches",
    "begins_simulated",
    "complete",
    "create_archive",
    "digests",
    "grey",
    "ingest_reports",
    "open_archive",
    "parse",
    "provenance_of",
    "quarantine",
    "read_objects",
    "record_runs",
    "restore",
    "retract",
    "set_labels",
    "shard_bounds",
    "simulated",
    "stored_rows",
    "summary",
    "verify",
]
