"""Standard error of native code, such as TensorFlow's and CUDA's, in a file instead of the terminal.

Native libraries write to file descriptor 2 before their logging can be configured, and most of it is no message for users.
Where a command fails unexpectedly it may be the only one: then the file is kept, and named.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

DEBUG_VARIABLE = "DEEPSTREAKS_DEBUG"
"""Environment variable that leaves standard error alone and shows tracebacks."""


class NativeLog:
    """The file that gets what native code, and the processes that it starts, write to standard error.

    Attributes
    ----------
    path : Path, optional
        The file; None where standard error is left alone.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def start(self) -> None:
        """Send file descriptor 2 to a new file, and keep ``sys.stderr`` for Python."""
        sys.stderr = os.fdopen(
            os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
        )
        try:
            number, path = tempfile.mkstemp(prefix="deepstreaks-", suffix=".log")
            self.path = Path(path)
        except OSError:  # no room, or nowhere to write
            number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, 2)
        os.close(number)
        faulthandler.enable(sys.stderr)

    def remove(self) -> None:
        """Remove the file: the command ended as it should."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()

    def describe(self) -> str:
        """Return a sentence that names the file, empty where nothing was written to it."""
        with suppress(OSError):
            if self.path is not None and self.path.stat().st_size:
                return f"Messages of native code: {self.path}"
        self.remove()
        return ""
