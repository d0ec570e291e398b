"""A new report every second: for `status --watch`, and for the dashboard of `up`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from rich.console import RenderableType
from rich.text import Text

from certbus.cluster_report import ClusterReport
from certbus.errors import UNAVAILABLE
from launcher.commands.status.render import Printable, view
from launcher.terminal import escape_control_chars

_INTERVAL_SECS: Final = 1.0


async def watch(
    read: Callable[[], Awaitable[ClusterReport]],
    size: Callable[[], tuple[int, int]],
    show: Callable[[RenderableType], None],
) -> NoReturn:
    """Show a new report every second until cancelled; an error takes the place of a report.

    Args:
        read: returns a report.
        size: returns the columns and lines that are available.
        show: displays a report.
    """
    while True:
        try:
            content = view(await read(), *size())
        except UNAVAILABLE as error:
            content = Text(f"Redis: {escape_control_chars(str(error))}", style="red")
        except Exception as error:  # noqa: BLE001 - `up` serves its clients without this view
            content = Text(f"no status: {escape_control_chars(repr(error))}", style="red")
        show(Printable(content))
        await asyncio.sleep(_INTERVAL_SECS)
