"""The settings of a gateway, apart from the address of Redis."""

from collections.abc import Mapping
from typing import Final

import msgspec

from certbus.keys import STREAMS
from certconf import Config
from certconf.settings import DRAIN_MARGIN_SECS
from ctfilter import Filter, parse_named_filter

MIB: Final = 1024 * 1024
V2: Final = "v2"
"""The stream that gateways make of another one; see `gateway.delivery.v2_stream`."""


class Settings(msgspec.Struct, frozen=True):
    """Limits and intervals. Times are seconds.

    Attributes:
        streams: offered streams.
        v2: offer v2, too, if one of `streams` has what it is made of.
        websocket: whether WebSocket clients are accepted.
        websocket_compression: whether to accept permessage-deflate.
        sse: whether SSE clients are accepted.
        sse_compression: whether to compress with gzip for SSE clients that accept it.
        metrics: whether /metrics is enabled.
        health: whether /health and /health/deep are enabled.
        example_json: whether the examples are enabled.
        api: whether /latest.json and /api/… are enabled.
        access_log: whether each request and stream is logged when it ends.
        base_path: path prefix that requests may have; without a slash at its end.
        filters: named filters.
        unhealthy_threshold: failures in a row that make a log unhealthy.
        retained: maximum bytes of each stream in Redis.
        ring_bytes: memory for the newest batches of each stream, in all encodings.
        history_bytes: memory for batches read from Redis for lagging clients.
        heartbeat: interval of heartbeats to WebSocket clients.
        comment: interval of comment lines to SSE clients.
        client_timeout: time over which a client must read `stall_timeout.MIN_BYTES_PER_SEC` of the
            messages sent to it; also the time limit for reading a response.
        close_timeout: for the answer to a closing handshake.
        request_timeout: from the first byte of a request, or from the start of the connection, to
            the last byte of the request.
        idle_timeout: from a response to the first byte of the next request.
        answer_timeout: from the last byte of a request to the first byte of the response.
        stop_timeout: time in which a stopping gateway closes its clients.
    """

    streams: tuple[str, ...] = STREAMS
    v2: bool = False
    websocket: bool = True
    websocket_compression: bool = True
    sse: bool = True
    sse_compression: bool = True
    metrics: bool = True
    health: bool = True
    example_json: bool = True
    api: bool = False
    access_log: bool = False
    base_path: str = ""
    filters: Mapping[str, Filter] = {}
    unhealthy_threshold: int = 5
    retained: Mapping[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    ring_bytes: int = 32 * MIB
    history_bytes: int = 32 * MIB
    heartbeat: float = 30.0
    comment: float = 15.0
    client_timeout: float = 60.0
    close_timeout: float = DRAIN_MARGIN_SECS - 1
    request_timeout: float = 10.0
    idle_timeout: float = 10.0
    answer_timeout: float = 15.0
    stop_timeout: float = 4.0

    @property
    def v2_source(self) -> str | None:
        """The stream that v2 is made of; None if v2 is not offered."""
        return next((s for s in ("lite", "full") if self.v2 and s in self.streams), None)

    @property
    def offered(self) -> tuple[str, ...]:
        """The streams of clients."""
        return self.streams if self.v2_source is None else (*self.streams, V2)

    def offers(self, switch: str) -> bool:
        """Whether a setting such as "protocols.api" is on; "" is always on."""
        return not switch or bool(getattr(self, switch.rpartition(".")[2]))


def settings_of(config: Config, base: Settings | None = None) -> Settings:
    """Return the settings of a configuration, with the limits and intervals of `base` if given."""
    streams, protocols = config.streams, config.protocols
    offered = {"full": streams.full, "lite": streams.lite, "domains": streams.domains_only}
    return msgspec.structs.replace(
        base or Settings(stop_timeout=config.drain_secs),
        streams=tuple(stream for stream in STREAMS if offered[stream]),
        v2=streams.v2,
        websocket=protocols.websocket,
        websocket_compression=protocols.websocket_compression,
        sse=protocols.sse,
        sse_compression=protocols.sse_compression,
        metrics=protocols.metrics,
        health=protocols.health,
        example_json=protocols.example_json,
        api=protocols.api,
        access_log=config.access_log,
        base_path=config.base_path.rstrip("/"),
        filters=_filters_of(config),
        unhealthy_threshold=config.ct_log.unhealthy_threshold,
        retained={stream: getattr(config.retention, stream).max_bytes for stream in STREAMS},
    )


def _filters_of(config: Config) -> dict[str, Filter]:
    parsed = {name: parse_named_filter(lines) for name, lines in config.filters.items()}
    return {name: given for name, given in parsed.items() if given is not None}
