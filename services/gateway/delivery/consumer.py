"""Redis -> rings: the only reader of the streams in the process."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from certbus.ids import FIRST_ID, parse_entry_id
from certbus.streams.events import EpochChanged, Gap, Rewind, StreamBatch
from certbus.streams.reader import StreamReader
from gateway.delivery import gap_messages
from gateway.delivery.history import HistoryReader
from gateway.delivery.ring_buffer import Ring
from gateway.metrics import Metrics, reason_of

_AT_ONCE: Final = 256 * 1024  # bytes put into rings before the loop gets its turn


async def consume_streams(
    follower: StreamReader,
    rings: Mapping[str, Ring],
    history: HistoryReader,
    notify: Callable[[], None],
    meter: Metrics,
) -> None:
    """Put everything that is published into the rings, until cancelled.

    Args:
        follower: of the rings' streams.
        rings: by stream; one may have gone while its stream was read.
        history: forgets what it has read where Redis has lost something.
        notify: called after each change.
        meter: measures how late Redis is read, and counts gaps.
    """
    taken = 0
    async for event in follower:
        match event:
            case EpochChanged():
                history.clear()
                for ring in rings.values():
                    if not ring.has_begun:
                        ring.begin_after(FIRST_ID)
                    ring.append_notice(gap_messages.for_event(event), resets=True)
                    meter.noticed(event)
            case _ if event.stream not in rings:
                continue
            case StreamBatch():
                rings[event.stream].append(event.id, event.prev, event.messages)
                meter.observe_read_delay(event.stream, parse_entry_id(event.id))
                taken += sum(map(len, event.messages))
            case Gap():
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.begin_after(event.requested)
                behind = event.oldest if reason_of(event) == "unreadable" else None
                ring.append_notice(gap_messages.for_event(event), behind=behind)
                meter.noticed(event)
            case Rewind():
                history.clear()
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.begin_after(event.seen)
                ring.append_notice(gap_messages.for_event(event))
                meter.noticed(event)
        notify()
        if taken > _AT_ONCE:
            taken = 0
            await asyncio.sleep(0)
