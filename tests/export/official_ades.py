"""The IAU's own schema and converter (the package ``iau-ades``), as an oracle for ADES documents."""

import subprocess
import sys
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from lxml import etree

_SCHEMA = etree.XMLSchema(file=str(resources.files("ades") / "data" / "xsd" / "submit.xsd"))


def errors_of_xml(document):
    """Return what ``submit.xsd`` refuses in an XML document, nothing if it is valid."""
    _SCHEMA.validate(etree.fromstring(document))
    return [error.message for error in _SCHEMA.error_log]


def psv_to_xml(document):
    """Convert a PSV document with the official converter, which reads it as the Minor Planet Center does."""
    with TemporaryDirectory() as folder:
        psv, xml = Path(folder, "in.psv"), Path(folder, "out.xml")
        psv.write_bytes(document)
        command = [sys.executable, "-m", "ades.psvtoxml", psv, xml]
        done = subprocess.run(command, capture_output=True, text=True)
        assert xml.exists(), done.stdout + done.stderr
        return xml.read_bytes()
