"""The command ``scenewise``: a thin face over the engine.

Results are tables on standard output, or one JSON object with ``--json``; progress and messages go to standard error.
The exit status is 0, 1 for a check that failed, 2 for bad usage or input, 130 after Ctrl-C.
"""

from scenewise.cli.commands import app, main

__all__ = ["app", "main"]
