from .append import AppendSummary, CutoutBatch, Quarantined, append_batches
from .attributes import provenance_of
from .create import create_archive
from .dataset import open_archive, shard_bounds, summary
from .hashing import digests
from .pictures import grey
from .provenance import SIMULATED_KINDS, begins_simulated, simulated
from .query import MAX_FILTER_LENGTH, Filter, FilterError, Kind, complete, parse
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
    "MAX_EPOCHS",
    "MAX_FILTER_LENGTH",
    "Quarantined",
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
    "open_archive",
    "parse",
    "provenance_of",
    "quarantine",
    "read_objects",
    "record_runs",
    "shard_bounds",
    "simulated",
    "summary",
    "verify",
]
