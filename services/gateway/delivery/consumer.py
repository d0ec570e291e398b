"""Consume the streams of Redis into the rings. The only reader of live streams in the process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from certbus.ids import FIRST_ID, parse_entry_id
from certbus.streams.codec import PackedMessages
from certbus.streams.events import EpochChanged, Gap, Rewind, StreamBatch
from certbus.streams.reader import StreamReader
from gateway.delivery.encoding import gap_message_for
from gateway.delivery.history import HistoryReader
from gateway.delivery.ring_buffer import Ring
from gateway.metrics import Metrics, reason_of

_YIELD_AFTER_BYTES: Final = 256 * 1024  # appended before other tasks run


async def consume_streams(
    reader: StreamReader,
    rings: Mapping[str, Ring],
    history: HistoryReader,
    notify: Callable[[], None],
    metrics: Metrics,
) -> None:
    """Append all published batches to the rings, until cancelled.

    Args:
        reader: of the streams of the rings.
        rings: by stream; a reload may remove one while its stream is read.
        history: cleared when Redis has lost data.
        notify: called when a ring has grown.
        metrics: observes the read delay and counts gaps.
    """
    appended = 0
    async for event in reader:
        match event:
            case EpochChanged():
                history.clear()
                for ring in rings.values():
                    if not ring.has_begun:
                        ring.begin_after(FIRST_ID)
                    ring.append_notice(gap_message_for(event), resets=True)
                    metrics.observe_event(event)
                    notify()
                continue
            case _ if event.stream not in rings:
                continue
            case StreamBatch():
                rings[event.stream].append(event.id, event.prev, event.messages)
                metrics.observe_read_delay(event.stream, parse_entry_id(event.id))
                appended += _unpacked_bytes(event.messages)
            case Gap():
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.begin_after(event.requested)
                replaces = event.oldest if reason_of(event) == "unreadable" else None
                ring.append_notice(gap_message_for(event), replaces=replaces)
                metrics.observe_event(event)
            case Rewind():
                history.clear()
                ring = rings[event.stream]
                if not ring.has_begun:
                    ring.begin_after(event.seen)
                ring.append_notice(gap_message_for(event))
                metrics.observe_event(event)
        notify()
        if appended > _YIELD_AFTER_BYTES:
            appended = 0
            await asyncio.sleep(0)


def _unpacked_bytes(messages: Sequence[bytes]) -> int:
    """Return the bytes of messages; 0 if they are packed."""
    return 0 if isinstance(messages, PackedMessages) else sum(map(len, messages))
