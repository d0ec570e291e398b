"""What all connections of a gateway share."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Final, Protocol

from ctfilter import Filter, IndexFull, parse_filter
from ctfilter.grammar import CERTIFICATE_KEYS
from gateway.clients.base import Client, ClientRegistry, StartReplay
from gateway.clients.stall_timeout import unacknowledged_bytes
from gateway.config import V2, Settings
from gateway.delivery.channel import Channel
from gateway.delivery.compression import DEFLATED, SHARED, SharedContext
from gateway.delivery.encoding import SSE, WEBSOCKET, Encoding
from gateway.delivery.filtering import FilterSet
from gateway.delivery.ring_buffer import Ring
from gateway.delivery.sse_gzip import SSE_GZIP
from gateway.delivery.v2_stream import V2Ring
from gateway.error_log import ErrorLog
from gateway.http.errors import ErrorCode
from gateway.http.messages import FilterRequest
from gateway.metrics import Metrics

_FULL: Final = "Server is at its limit of filters"


class FilterRefused(Exception):
    """A filter that this gateway cannot have.

    Attributes:
        code: why.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Closable(Protocol):
    """A connection without a stream, as the drain needs it."""

    @property
    def transport(self) -> asyncio.Transport:
        """Of the connection."""

    @property
    def is_answering(self) -> bool:
        """Whether the client waits for a response."""

    def close(self) -> None:
        """Close the connection after the response in progress."""


class Hub:
    """The rings, their channels, and the connections of a gateway.

    Args:
        settings: the streams and encodings to offer, limits and intervals.
        replay: starts to serve a client from Redis, given the cursor that it has.
        metrics: of this gateway.

    Attributes:
        settings: as they are now; `apply_settings` alone replaces them.
        rings: by stream.
        channels: by stream and encoding, without filters.
        filters: the channels with filters.
        clients: what WebSocket and SSE clients share.
        errors: unexpected errors, each of one connection.
        connection_ids: numbers connections for the log.
        pending_connections: connections without a stream; they add and remove themselves.
    """

    def __init__(self, settings: Settings, replay: StartReplay, metrics: Metrics) -> None:
        self.rings: dict[str, Ring] = {}
        self.channels: dict[tuple[str, Encoding], Channel[Client]] = {}
        self.metrics = metrics
        self.filters = FilterSet(metrics)
        self.apply_settings(settings)
        self.errors = ErrorLog()
        self.clients = ClientRegistry(settings, replay, self.errors)
        self.connection_ids = itertools.count(1)
        self.pending_connections: set[Closable] = set()

    def apply_settings(self, settings: Settings) -> list[Channel[Client]]:
        """Offer the streams and encodings of `settings`. Limits and intervals do not change.

        Returns:
            Channels of streams that are no longer offered. The caller closes their clients.
        """
        self.settings = settings
        removed = [
            channel
            for (stream, _), channel in self.channels.items()
            if stream not in settings.offered
        ]
        for channel in removed:
            self.rings.pop(channel.stream, None)
            self.channels.pop((channel.stream, channel.encoding), None)
        for narrowed in list(self.filters.channels.values()):
            if not {narrowed.stream, narrowed.ring.stream} <= set(settings.offered):
                self.filters.remove(narrowed)
                removed.append(narrowed)
        deflate = (DEFLATED, SHARED) if settings.websocket_compression else ()
        for stream in settings.offered:
            ring = self.rings.get(stream) or self._ring(stream)
            self.rings[stream] = ring
            if isinstance(ring, V2Ring) and settings.v2_source is not None:
                ring.change_source(settings.v2_source)
            for encoding in (WEBSOCKET, SSE, SSE_GZIP, *deflate):
                if (stream, encoding) not in self.channels:
                    channel = Channel[Client](ring, encoding, self.metrics)
                    self.channels[stream, encoding] = channel
                    if encoding is SHARED:
                        ring.context = SharedContext(channel.clients, _loop_time)
        return removed

    def _ring(self, stream: str) -> Ring:
        settings = self.settings
        if settings.v2_source is None or stream != V2:
            return Ring(stream, settings.ring_bytes, on_unreadable=self._count_unreadable)

        def has_clients() -> bool:
            own = (channel for channel in self.channels.values() if channel.ring is made)
            return self.filters.reads(made) or any(channel.clients for channel in own)

        made = V2Ring(settings.ring_bytes, settings.v2_source, has_clients)
        return made

    def channel(self, stream: str, encoding: Encoding, given: Filter | None) -> Channel[Client]:
        """Return the channel of a client. The limits do not hold for a filter of the configuration.

        Args:
            stream: its name.
            encoding: without a filter.
            given: the filter; None for all messages.

        Raises:
            FilterRefused: there is no place for the filter, no stream has what it compares, or the
                stream is disabled and its clients are being closed.
        """
        base = self.channels.get((stream, encoding))
        if base is None:
            raise FilterRefused(ErrorCode.DISABLED, f"Stream {stream} is disabled")
        if isinstance(base.ring, V2Ring):
            base.ring.start(self.rings[base.ring.source])
        if given is None:
            return base
        source = self.source_of(stream, given)
        limited = given not in self.settings.filters.values()
        is_new = (base, given) not in self.filters.channels
        if is_new and limited and not self.filters.has_place(given):
            raise FilterRefused(ErrorCode.FILTER_LIMIT, _FULL)
        try:
            return self.filters.channel(base, given, self.rings[source], limited=limited)
        except IndexFull as full:
            raise FilterRefused(ErrorCode.FILTER_LIMIT, f"{_FULL}: {full}") from None

    def resolve(self, requested: FilterRequest) -> Filter | None:
        """Return the filter of a client, with the present lines of named filters.

        Raises:
            FilterRefused: no named filter has one of the names.
        """
        parts = [requested.own] if requested.own is not None else []
        for name in requested.names:
            if (named := self.settings.filters.get(name)) is None:
                raise FilterRefused(ErrorCode.INVALID_FILTER, f"there is no filter {name[:40]!r}")
            parts.append(named)
        return parse_filter(also=parts) if len(parts) > 1 else next(iter(parts), None)

    def source_of(self, stream: str, given: Filter | None) -> str:
        """Return the stream that has what a filter compares.

        Raises:
            FilterRefused: no stream has it.
        """
        if stream != "domains" or given is None:
            return stream
        terms = (term for group in given.groups for line in group for term in line.terms)
        term = next((term for term in terms if term.key in CERTIFICATE_KEYS), None)
        if term is None:
            return stream
        for other in ("lite", "full"):
            if other in self.rings:
                return other
        error = f"{term.text!r} needs the stream lite or full, which is disabled (streams.lite)"
        raise FilterRefused(ErrorCode.INVALID_FILTER, error)

    @property
    def all_channels(self) -> list[Channel[Client]]:
        """The channels of all clients, with those that have a filter."""
        return [*self.channels.values(), *self.filters.channels.values()]

    def unfiltered_channels(self) -> list[Channel[Client]]:
        """Return the channels without a filter."""
        return list(self.channels.values())

    def _count_unreadable(self) -> None:
        self.metrics.count_gap("unreadable")

    def is_read(self, stream: str) -> bool:
        """Whether a client or a filter reads each new message of a stream."""
        return bool(self.filters.channels) or any(
            channel.clients for channel in self.channels.values() if channel.ring.source == stream
        )

    @property
    def is_answering(self) -> bool:
        """Whether a connection waits for a response, or its client has not read all of one."""
        return any(
            connection.is_answering or unacknowledged_bytes(connection.transport)
            for connection in self.pending_connections
        )

    def stream_ages(self) -> Mapping[str, float]:
        """Return the age of the newest batch of each stream, in seconds."""
        return {
            stream: self.metrics.stream_age(
                stream, ring.head.cursor.entry if ring.has_messages else None
            )
            for stream, ring in self.rings.items()
            if stream == ring.source
        }

    def abort_connections(self) -> int:
        """Abort the connections that are closing or have no stream; return how many."""
        transports = [client.transport for client in self.clients.closing]
        transports += [connection.transport for connection in self.pending_connections]
        for transport in transports:
            transport.abort()
        return len(transports)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
