"""Pools of processes, and a check that a script can start them: without a main guard each would run the script again.

Processes that are spawned import the main module anew. A script that starts some outside of
``if __name__ == "__main__":`` would start more in each of them; Python refuses that with hundreds of lines of
tracebacks, one for each process. So the script is looked at before any process starts.
"""

from __future__ import annotations

import ast
import inspect
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import current_process, get_context
from pathlib import Path
from types import CodeType, FrameType

from deepstreaks_dask.errors import DeepStreaksError


class MainGuardError(DeepStreaksError, SystemExit):
    """A script starts processes outside of its main guard.

    Where nobody catches it, Python ends with its one line and no traceback, since it is a :class:`SystemExit` too.

    Parameters
    ----------
    script : str
        Path of the script.
    """

    def __init__(self, script: str) -> None:
        super().__init__(
            f"{script} starts processes outside of a main guard, and each of them would run it again: put the code "
            "beneath 'if __name__ == \"__main__\":' (a notebook or an interactive session needs none)"
        )
        self.code = f"deepstreaks: {self}"


def process_pool() -> ProcessPoolExecutor:
    """Return a pool of as many spawned processes as there are processors.

    Returns
    -------
    ProcessPoolExecutor
        Its processes start when work is given to it.

    Raises
    ------
    MainGuardError
        If the script that runs has no main guard around the present call.
    """
    check_main_guard()
    return ProcessPoolExecutor(mp_context=get_context("spawn"))


def check_main_guard() -> None:
    """Check that processes can be spawned from here.

    Raises
    ------
    MainGuardError
        If the script that runs has no main guard around the present call.
    """
    if getattr(current_process(), "_inheriting", False):  # of a process that is being spawned
        raise MainGuardError(sys.argv[0])
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script is None:  # a notebook, or an interactive session: nothing is imported anew
        return
    name = getattr(getattr(main, "__spec__", None), "name", "")
    if name == "__main__" or name.endswith(".__main__"):  # 'python -m package': never imported anew
        return
    line = _line_of_main(vars(main))
    if line is not None and not _is_guarded(Path(script), line):
        raise MainGuardError(script)


def _line_of_main(main: dict[str, object]) -> int | None:
    """Return the line at which the top level of the main module is; None if this thread is not of it."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        code: CodeType = frame.f_code
        if frame.f_globals is main and code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def _is_guarded(script: Path, line: int) -> bool:
    """Say whether a line of a script is beneath, or after, a condition on ``__name__``."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, ValueError, SyntaxError):  # no source: Python itself has to tell
        return True
    return any(
        isinstance(node, ast.If)
        and node.lineno <= line
        and any(
            isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
        )
        and (line <= (node.end_lineno or line) or _leaves(node))
        for node in ast.walk(tree)
    )


def _leaves(node: ast.If) -> bool:
    """Say whether a condition ends the script: ``if __name__ != "__main__": raise SystemExit``, say."""
    if not any(isinstance(part, ast.NotEq) for part in ast.walk(node.test)):
        return False
    last = node.body[-1]
    return isinstance(last, ast.Raise) or (
        isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
    )
