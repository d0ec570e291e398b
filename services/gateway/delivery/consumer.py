"""Redis -> rings: the only reader of the streams in the process."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from certbus.ids import ORIGIN, parse_entry_id
from certbus.streams.events import Gap, NewEpoch, Repeat, StreamBatch
from certbus.streams.reader import Follower
from gateway.delivery import gap_messages
from gateway.delivery.history import History
from gateway.delivery.ring_buffer import Ring
from gateway.metrics import Meter, reason_of

_AT_ONCE: Final = 256 * 1024  # bytes put into rings before the loop gets its turn


async def feed(
    follower: Follower,
    rings: Mapping[str, Ring],
    history: History,
    notify: Callable[[], None],
    meter: Meter,
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
            case NewEpoch():
                history.forget()
                for ring in rings.values():
                    if not ring.has_begun:
                        ring.start(ORIGIN)
                    ring.append_notice(gap_messages.of_event(event), resets=True)
                    meter.noticed(event)
            case _ if event.stream not in rings:
                continue
            case StreamBatch():
                rings[event.stream].append(event.id, event.prev, event.messages)
                meter.read(event.stream, parse_entry_id(event.id))
                taken += sum(map(len, event.messages))
            case Gap():
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.start(event.requested)
                behind = event.oldest if reason_of(event) == "unreadable" else None
                ring.append_notice(gap_messages.of_event(event), behind=behind)
                meter.noticed(event)
            case Repeat():
                history.forget()
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.start(event.seen)
                ring.append_notice(gap_messages.of_event(event))
                meter.noticed(event)
        notify()
        if taken > _AT_ONCE:
            taken = 0
            await asyncio.sleep(0)
