"""Consume the streams of Redis into the rings. The only reader of live streams in the process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from certbus.ids import FIRST_ID, parse_entry_id
from certbus.streams.codec import PackedMessages, UndecodableBatch
from certbus.streams.events import EpochChanged, Gap, Rewind, StreamBatch
from certbus.streams.reader import StreamReader
from gateway.delivery.encoding import gap_message, gap_message_for
from gateway.delivery.history import HistoryReader
from gateway.delivery.ring_buffer import Ring
from gateway.delivery.v2_stream import filled_rings, messages_for, rings_of
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
        if isinstance(event, EpochChanged):
            history.clear()
            for ring in filled_rings(rings):
                _add_notice(ring, FIRST_ID, gap_message_for(event), resets=True)
                metrics.observe_event(event)
            notify()
            continue
        if event.stream not in rings:
            continue
        fed = rings_of(event.stream, rings)
        match event:
            case StreamBatch():
                for ring in fed:
                    _append(ring, event)
                metrics.observe_read_delay(event.stream, parse_entry_id(event.id))
                appended += _unpacked_bytes(event.messages)
            case Gap():
                replaces = event.oldest if reason_of(event) == "unreadable" else None
                for ring in fed:
                    message = gap_message_for(event)
                    _add_notice(ring, event.requested, message, replaces=replaces)
                metrics.observe_event(event)
            case Rewind():
                history.clear()
                for ring in fed:
                    _add_notice(ring, event.seen, gap_message_for(event))
                metrics.observe_event(event)
        notify()
        if appended > _YIELD_AFTER_BYTES:
            appended = 0
            await asyncio.sleep(0)


def _unpacked_bytes(messages: Sequence[bytes]) -> int:
    """Return the bytes of messages; 0 if they are packed."""
    return 0 if isinstance(messages, PackedMessages) else sum(map(len, messages))


def _append(ring: Ring, batch: StreamBatch) -> None:
    try:
        messages = messages_for(ring.stream, batch)
    except UndecodableBatch as error:  # only v2 reads the messages here
        reason = f"unreadable: entry {batch.id}: {error}"
        message = gap_message(batch.prev, batch.id, reason)
        _add_notice(ring, batch.prev, message, replaces=batch.id)
    else:
        ring.append(batch.id, batch.prev, messages)


def _add_notice(
    ring: Ring, after: str, message: bytes, *, replaces: str | None = None, resets: bool = False
) -> None:
    """Add a gap message; a ring that has not begun begins after the entry `after`."""
    if not ring.has_begun:
        ring.begin_after(after)
    ring.append_notice(message, replaces=replaces, resets=resets)
