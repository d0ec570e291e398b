"""Modules that libraries import only because they are installed.

structlog imports rich for a kind of traceback, httpx imports rich and click for a command: 3 to
4 MB in each process. Services use none of it; the dashboard of `up` and other commands need rich.
"""

import sys
from typing import Final

_HIDDEN: Final = ("rich", "click")


def hide() -> None:
    """Let imports of these modules fail from now on."""
    for name in _HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # see "The import system"


def show() -> None:
    """Undo `hide`."""
    for name in _HIDDEN:
        if sys.modules.get(name, sys) is None:
            del sys.modules[name]
