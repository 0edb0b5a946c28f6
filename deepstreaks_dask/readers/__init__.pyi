from .ades_files import read_ades
from .alert_fields import ALERT_COLUMNS
from .alerts import Alert, decode_packets
from .depot import (
    ADES,
    TABLE,
    TARBALL,
    Products,
    check_tarball,
    read_products,
)
from .fits import FitsFolder
from .fits_headers import observed, readable_cards, sky
from .folder import Refused
from .images import decode_image, to_cutout
from .ingestion import find_reader, ingest
from .labelling import label_archive
from .positions import Positions
from .registry import get_reader, layout_of, sniff, wants_processes
from .reports import IngestReport, RemarkCount
from .sequences import STAMP_SIZE
from .streak_table import CUT_SHORT_REASON, FILTER_NAMES, STREAK_COLUMNS, read_table
from .stretch import STRETCHES, develop
from .tables import read_frame
from .tarballs import count_members, is_tarball, members

__all__ = [
    "ADES",
    "ALERT_COLUMNS",
    "Alert",
    "CUT_SHORT_REASON",
    "FILTER_NAMES",
    "FitsFolder",
    "IngestReport",
    "Positions",
    "Products",
    "Refused",
    "RemarkCount",
    "STAMP_SIZE",
    "STREAK_COLUMNS",
    "STRETCHES",
    "TABLE",
    "TARBALL",
    "check_tarball",
    "count_members",
    "decode_image",
    "decode_packets",
    "develop",
    "find_reader",
    "get_reader",
    "ingest",
    "is_tarball",
    "label_archive",
    "layout_of",
    "members",
    "observed",
    "read_ades",
    "read_frame",
    "read_products",
    "read_table",
    "readable_cards",
    "sky",
    "sniff",
    "to_cutout",
    "wants_processes",
]
