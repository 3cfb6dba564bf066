"""What has to hold before further processes are started.

Where they start by ``spawn`` or ``forkserver``, as on macOS, on Windows and, from Python 3.14, on Linux, each new
process first runs the user's script, under another name than ``__main__``. A script that trains at its top level would
train again in each of them.
"""

from __future__ import annotations

import ast
import multiprocessing
import sys
from pathlib import Path

from scenewise.errors import UsageError

GUARD = 'if __name__ == "__main__":'


def check_loaders(workers: int, setting: str) -> None:
    """Refuse to start ``workers`` processes that load samples where each would run the user's script anew.

    Raises:
        UsageError: names the script, its line, and the cure; ``setting`` is what the number is called.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if workers and method != "fork":
        check_script(f"{setting} is {workers}, and processes start by {method} here", f"{setting} 0")


def check_script(why: str, instead: str) -> None:
    """Refuse to start processes from a script's top level, outside of ``if __name__ == "__main__":``.

    Raises:
        UsageError: ``why`` processes are started, and what to give ``instead``, are part of it.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or file is None:  # typed in, or from a notebook: there is no script that could run
        return
    frame = sys._getframe()
    while frame.f_code.co_name != "<module>" or frame.f_globals is not vars(main):
        if frame.f_back is None:
            return
        frame = frame.f_back
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    at = next((one for one in body if one.lineno <= frame.f_lineno <= (one.end_lineno or one.lineno)), None)
    if at is None or (isinstance(at, ast.If) and _asks_for_main(at.test)):
        return
    raise UsageError(
        f"{file}, line {frame.f_lineno}: {why}, each of which runs this script anew from its top: put this line under "
        f"`{GUARD}`, or give {instead}"
    )


def _asks_for_main(test: ast.expr) -> bool:
    """Whether a condition compares ``__name__`` with ``"__main__"``."""
    parts = [*ast.walk(test)]
    named = any(isinstance(part, ast.Name) and part.id == "__name__" for part in parts)
    return named and any(isinstance(part, ast.Constant) and part.value == "__main__" for part in parts)
