"""An ingestor that is killed, as by the kernel, at one point of its work.

    python -m tests.ingestor.pipeline.crashing POINT N ARGUMENT...

POINT, of the N-th window that is proven or batch that is published:

    fetched     entries are there, nothing is proven
    proven      before any of it is published
    unsent      a batch is about to be sent to Redis
    under way   it is sent, and its arrival is unknown
    published   Redis has it, and nothing here knows

The ARGUMENTs are those of `certstream-server`.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from certbus.logs.leases import Lease
from certbus.streams.batch import Batch, Outcome
from certbus.streams.publisher import Publisher
from ingestor.pipeline import prefetch
from ingestor.verification.verifier import Verifier
from launcher.cli import main

POINTS = ("fetched", "proven", "unsent", "under way", "published")


class Crash:
    """Counts how often the point was come by."""

    def __init__(self, point: str, times: int) -> None:
        self._point = point
        self._left = times

    def maybe(self, point: str) -> None:
        """Die, if this is the time to."""
        self._left -= point == self._point
        if point == self._point and self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(crash: Crash) -> None:
    """Make every verifier and publisher of this process count their steps, of small runs."""
    prefetch.MAX_LOG_BYTES = prefetch.RUN_BYTES = 1 << 20
    verify, publish = Verifier.verify, Publisher.publish

    async def verifying(self: Verifier, *arguments: Any) -> Any:
        crash.maybe("fetched")
        windows = await verify(self, *arguments)
        crash.maybe("proven")
        return windows

    async def publishing(self: Publisher, lease: Lease, batch: Batch) -> Outcome:
        crash.maybe("unsent")
        under_way = asyncio.create_task(publish(self, lease, batch))
        await asyncio.sleep(0)  # it packs, and writes to the socket
        crash.maybe("under way")
        outcome = await under_way
        crash.maybe("published")
        return outcome

    Verifier.verify = verifying  # type: ignore[method-assign, assignment]
    Publisher.publish = publishing  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(Crash(sys.argv[1], int(sys.argv[2])))
    sys.exit(main(sys.argv[3:]))
