"""Collect reports from Redis, one or one after the other."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from redis.asyncio import Redis
from rich.console import RenderableType
from rich.text import Text

from certbus.cluster import snapshot, stream_ranges
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certbus.server_state import server_state
from launcher.commands.status.render import view
from launcher.commands.status.report import Report, StatusInput, build_report
from launcher.terminal import Printable, escape_control_chars

WATCH_INTERVAL_SECS: Final = 1.0
_RATE_WINDOW_SECS: Final = 10.0


class Rates:
    """Growth of counters per second, over the last seconds. Pure.

    Args:
        window: seconds.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._samples: deque[tuple[float, Mapping[str, float]]] = deque()

    def after(self, now: float, counts: Mapping[str, float]) -> dict[str, float]:
        """Add a sample and return the growth of each counter per second.

        A counter that is new, or less than before (Redis was emptied, or its process restarted),
        has a growth of 0.
        """
        self._samples.append((now, counts))
        while now - self._samples[0][0] > self._window:
            self._samples.popleft()
        then, before = self._samples[0]
        if now <= then:
            return dict.fromkeys(counts, 0.0)
        return {
            name: max(count - before.get(name, count), 0.0) / (now - then)
            for name, count in counts.items()
        }


class Collector:
    """Makes reports of one cluster.

    Processes report rates once they have run for ten seconds; until then, and for those of an
    older release, the rate is the growth of their counters between the reports of this collector.

    Args:
        client: of any Redis of the cluster.
        keys: names of the keys.
        unhealthy_threshold: failures in a row that make a log unhealthy.
    """

    def __init__(self, client: Redis, keys: Keys, unhealthy_threshold: int) -> None:
        self._client = client
        self._keys = keys
        self._unhealthy_threshold = unhealthy_threshold
        self._rates = Rates(_RATE_WINDOW_SECS)

    async def report(self, *, settled: bool = False) -> Report:
        """Collect one report.

        Args:
            settled: whether to take a second sample where a process reports no rate.

        Raises:
            UNAVAILABLE: Redis is unavailable.
        """
        sample = await self._sample()
        growth = self._rates.after(time.monotonic(), sample.counts())
        if settled and sample.counts().keys() - sample.rates().keys():
            await asyncio.sleep(WATCH_INTERVAL_SECS)
            return await self.report()
        return build_report(sample, growth, self._unhealthy_threshold)

    async def _sample(self) -> StatusInput:
        directory = await snapshot(self._client, self._keys)
        return StatusInput(
            directory.now / 1000,
            directory,
            await stream_ranges(self._client, self._keys),
            await server_state(self._client),
        )


async def watch(
    collector: Collector,
    size: Callable[[], tuple[int, int]],
    show: Callable[[RenderableType], None],
) -> NoReturn:
    """Show a new report every second until cancelled; an error takes the place of a report.

    Args:
        collector: of the reports.
        size: returns the columns and lines that are available.
        show: displays a report.
    """
    while True:
        try:
            content = view(await collector.report(), *size())
        except UNAVAILABLE as error:
            content = Text(f"Redis: {escape_control_chars(str(error))}", style="red")
        except Exception as error:  # noqa: BLE001 - `up` serves its clients without this view
            content = Text(f"no status: {escape_control_chars(repr(error))}", style="red")
        show(Printable(content))
        await asyncio.sleep(WATCH_INTERVAL_SECS)
