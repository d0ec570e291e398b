"""The stream v2, which a gateway makes of lite, or of full if lite is not written.

Redis does not have it. Its messages have the ids of the stream that they are made of. The ring is
filled only while it has clients, so that nothing is encoded that no client reads.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from certbus.streams.events import StreamBatch
from ctparse.v2_message import v2_message
from gateway.config import V2
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import Ring

_LOG_ID_HEX: Final = 64

log = structlog.get_logger(__name__)


def v2_messages(batch: StreamBatch) -> Sequence[bytes]:
    """Return the messages of version 2 of a batch of lite or full, in the same positions.

    A message that cannot be decoded is logged; what takes its position is not sent.
    """
    log_id = bytes.fromhex(batch.log) if len(batch.log) == _LOG_ID_HEX else None
    messages: list[bytes] = []
    for text in batch.messages:
        try:
            messages.append(v2_message(text, log_id, batch.verification))
        except (msgspec.MsgspecError, KeyError) as error:
            log.error("message not decoded", stream=V2, error=str(error))
            messages.append(NO_NAMES)
    return messages


class V2Ring(Ring):
    """The ring of the stream v2. The consumer and the hub own it.

    Args:
        max_bytes: as of `Ring`.
        source: the stream that it is made of.
        has_clients: whether a client reads it.

    Attributes:
        is_filled: whether batches of the source are added.
    """

    def __init__(self, max_bytes: int, source: str, has_clients: Callable[[], bool]) -> None:
        super().__init__(V2, max_bytes)
        self.source = source
        self.is_filled = False
        self._has_clients = has_clients

    def start(self, source: Ring) -> None:
        """Begin after the newest batch of the source, before the first client reads it.

        A client that has this batch gets the notices after it: Redis may have lost the batch.
        """
        if self.is_filled:
            return
        self.is_filled = True
        if source.has_begun:
            self.begin_after(str(source.head.cursor.entry))
            for slot in source.last_notices:
                self.append_notice(slot.messages[0])

    def change_source(self, source: str) -> None:
        """Be made of another stream, which may have been read up to another batch.

        What it has is dropped: its clients replay, so that they miss and repeat nothing.
        """
        if source != self.source:
            self.source = source
            self.clear()
            self.head = msgspec.structs.replace(self.head, number=self.head.number + 1)

    def follows(self, stream: str) -> bool:
        """Whether an event of a stream is to be added. Without clients, the ring is emptied."""
        if not self.is_filled or stream != self.source:
            return False
        if not self._has_clients():
            self.is_filled = False
            self.clear()
        return self.is_filled


def filled_rings(rings: Mapping[str, Ring]) -> list[Ring]:
    """Return the rings to which events of all streams are added."""
    return [r for r in rings.values() if not isinstance(r, V2Ring) or r.is_filled]


def rings_of(stream: str, rings: Mapping[str, Ring]) -> list[Ring]:
    """Return the rings that an event of a stream of Redis is added to."""
    v2 = rings.get(V2)
    if isinstance(v2, V2Ring) and v2.follows(stream):
        return [rings[stream], v2]
    return [rings[stream]]


def messages_for(stream: str, batch: StreamBatch) -> Sequence[bytes]:
    """Return the messages that a batch of Redis has for the clients of a stream."""
    return v2_messages(batch) if stream == V2 else batch.messages
