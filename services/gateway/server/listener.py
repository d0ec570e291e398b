"""The listening socket of clients: accepts, counts and, beyond limits, rejects connections.

Limits on connections that have no stream:

    descriptors     the last ones are reserved for Redis and the admin listener
    total           at the limit, the connection that has waited longest is closed
    per address     at the limit, a new one is rejected; proxies count towards the total only;
                    the addresses of an IPv6 /64 network count as one
    idle            at the limit, a response is the last one of its connection

A rejected connection is answered 429 or 503, unless that needs resources of other connections.
`tests/gateway/server/test_listener.py` holds this.
"""

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import structlog

from certhttp.address import open_port
from gateway.admission.client_identity import address_group, client_address, is_within
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.error_log import LogInterval
from gateway.http.errors import ErrorCode, error_response, retry_after
from gateway.http.messages import Response

BACKLOG: Final = 4096
_NOTSENT_BYTES: Final = 256 * 1024  # buffered by the kernel beyond bytes in flight
_USER_TIMEOUT_MARGIN_SECS: Final = 30.0

_ACCEPT_BATCH: Final = 64  # connections accepted per iteration of the event loop
_RESERVED_DESCRIPTORS: Final = 192  # for Redis, admin listener, files, rejections
_MAX_REJECTING: Final = 32  # connections that wait for their rejection
_ACCEPT_RETRY_SECS: Final = 0.1  # after the kernel had no descriptor
_MAX_CHECKED: Final = 64  # connections checked for one that can be closed
_RETRY_AFTER_SECS: Final = 30  # of a rejected connection
_DISCARD_BYTES: Final = 64 * 1024  # of a request that is not parsed
_FULL: Final = "Server is at its connection limit"

log = structlog.get_logger(__name__)


class Limits(msgspec.Struct, frozen=True):
    """Limits on connections that have no stream.

    Attributes:
        descriptors: a connection whose descriptor is this number or higher is rejected.
        waiting: total.
        waiting_of_one: per address.
        idle: total between two requests.
        idle_of_one: per address between two requests.
    """

    descriptors: int
    waiting: int = 4096
    waiting_of_one: int = 512
    idle: int = 1024
    idle_of_one: int = 16


def limits() -> Limits:
    """Return the limits of this process; the kernel allocates the lowest free descriptor."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(max(soft - _RESERVED_DESCRIPTORS, soft // 2))


class _Transported(Protocol):
    """The part of a connection that the listener uses."""

    @property
    def is_answering(self) -> bool:
        """Whether it waits for this server, not for its client."""

    def close(self) -> None:
        """Close the connection."""


class Arrival:
    """A connection from its acceptance to its end, or until it has a stream.

    Args:
        listener: that accepted it.
        group: address group of its peer; None if it counts towards the total only.

    Attributes:
        group: the same.
        connection: None during a TLS handshake, and in the iterations that set the socket up.
        connecting: the task that sets it up.
        refused: whether it is kept only to send a rejection.
    """

    __slots__ = ("_idle", "_listener", "connecting", "connection", "group", "refused")

    connecting: "asyncio.Task[None]"

    def __init__(self, listener: "Listener", group: str | None, *, refused: bool) -> None:
        self._listener = listener
        self._idle = False
        self.group = group
        self.connection: _Transported | None = None
        self.refused = refused

    @property
    def may_idle(self) -> bool:
        """Whether the connection may be kept open for another request."""
        return self._listener.has_room_for_idle(self.group)

    def set_idle(self, *, idle: bool) -> None:
        """Set whether the connection is between two requests."""
        if idle != self._idle:
            self._idle = idle
            self._listener.count_idle(self.group, 1 if idle else -1)

    def leave(self) -> None:
        """Stop counting the connection: it has ended or has a stream. Idempotent."""
        self.set_idle(idle=False)
        self._listener.forget(self)
        self.connection = None  # a cycle would keep both in memory until a garbage collection


class Listener:
    """Accepts connections.

    Args:
        listening: the socket.
        connect: makes the protocol of a connection from its `Arrival` and, if it is rejected,
            the response to its requests.
        refused: rejections by reason: "site", "waiting", "descriptors".
        policy: the trusted proxies, and the limit per client.
        bounds: for connections that have no stream.
        tls: further arguments of `connect_accepted_socket`.
    """

    def __init__(
        self,
        listening: socket.socket,
        connect: "Callable[[Arrival, Response | None], asyncio.Protocol]",
        refused: "Counter[str]",
        policy: Callable[[], Policy],
        bounds: Limits,
        tls: Mapping[str, Any],
    ) -> None:
        self._listening = listening
        self._connect = connect
        self._refused = refused
        self._policy = policy
        self._bounds = bounds
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._arrivals: dict[Arrival, None] = {}  # the oldest first
        self._refusing: set[Arrival] = set()
        self._of_one: Counter[str] = Counter()
        self._idle: Counter[str | None] = Counter()
        self._idle_total = 0
        self._log_intervals = {why: LogInterval() for why in ("waiting", "descriptors")}
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting. Accepted connections stay. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def cancel_handshakes(self) -> None:
        """End TLS handshakes, once every accepted connection without TLS is set up.

        If the task that sets up such a connection is cancelled, uvloop closes the socket, but calls
        the protocol as if it were open, and never calls `connection_lost`.
        """
        for arrival in tuple(self._arrivals):
            if arrival.connection is None:
                arrival.connecting.cancel()

    def has_room_for_idle(self, group: str | None) -> bool:
        """Whether another connection may be kept open between two requests."""
        if self._idle_total >= self._bounds.idle:
            return False
        if group is None:
            return True
        policy, limit = self._policy(), self._bounds.idle_of_one
        if policy.limits_connections and policy.max_per_address is not None:
            limit = min(limit, policy.max_per_address)
        return self._idle[group] < limit

    def count_idle(self, group: str | None, change: int) -> None:
        """Change the number of idle connections of an address group."""
        self._idle_total += change
        self._idle[group] += change
        if not self._idle[group]:
            del self._idle[group]

    def forget(self, arrival: Arrival) -> None:
        """Stop counting a connection."""
        self._refusing.discard(arrival)
        if arrival not in self._arrivals:
            return
        del self._arrivals[arrival]
        if arrival.group is not None:
            self._of_one[arrival.group] -= 1
            if not self._of_one[arrival.group]:
                del self._of_one[arrival.group]

    def _accept(self) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                accepted, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._count_rejection("descriptors", error=str(error))
                self._loop.remove_reader(self._listening.fileno())
                self._retry = self._loop.call_later(_ACCEPT_RETRY_SECS, self._accept_again)
                return
            self._take(accepted, str(peer[0]))

    def _accept_again(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._accept()

    def _take(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        address = client_address(peer, None, ())
        is_proxy = is_within(address, self._policy().trusted_proxies)
        group = None if is_proxy else address_group(address)
        refusal = self._refusal(accepted, group)
        arrival = Arrival(self, group, refused=refusal is not None)
        if refusal is None:
            self._arrivals[arrival] = None
            if group is not None:
                self._of_one[group] += 1
        elif len(self._refusing) < _MAX_REJECTING:
            self._refusing.add(arrival)
        else:
            self._refuse_at_once(accepted, refusal)
            return
        arrival.connecting = self._loop.create_task(self._set_up(arrival, accepted, refusal))

    def _refusal(self, accepted: socket.socket, group: str | None) -> Response | None:
        """Return the rejection of a connection; None if it is accepted, after making room."""
        retry = retry_after(_RETRY_AFTER_SECS)
        if accepted.fileno() >= self._bounds.descriptors:
            self._count_rejection("descriptors", descriptor=accepted.fileno())
            return error_response(ErrorCode.CONNECTION_LIMIT, _FULL, retry)
        limit = self._bounds.waiting_of_one
        if group is not None and self._of_one[group] >= limit:
            self._refused["site"] += 1
            error = f"Connection limit per address reached ({limit} without a stream for {group})"
            return error_response(ErrorCode.ADDRESS_LIMIT, error, retry)
        if len(self._arrivals) >= self._bounds.waiting:
            self._count_rejection("waiting", connections=len(self._arrivals))
            if not self._make_room():
                return error_response(ErrorCode.CONNECTION_LIMIT, _FULL, retry)
        return None

    def _make_room(self) -> bool:
        """Close a connection that waits for its client; return False if there is none."""
        for arrival, _ in zip(tuple(self._arrivals), range(_MAX_CHECKED), strict=False):
            if arrival.connection is not None and not arrival.connection.is_answering:
                arrival.connection.close()
            elif arrival.connection is None and self._tls:
                arrival.connecting.cancel()
            else:
                continue
            arrival.leave()
            return True
        return False

    def _count_rejection(self, why: str, **fields: object) -> None:
        self._refused[why] += 1
        unlogged = self._log_intervals[why].due()
        if unlogged is not None:
            log.error("connection rejected", reason=why, unlogged=unlogged, **fields)

    async def _set_up(
        self, arrival: Arrival, accepted: socket.socket, refusal: Response | None
    ) -> None:
        connection = self._connect(arrival, refusal)
        try:
            # An error of a client in its TLS handshake raises here and ends its connection alone.
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **self._tls)
        except Exception as error:  # noqa: BLE001
            log.debug("connection setup failed", error=str(error))
            arrival.leave()
            accepted.close()
        except asyncio.CancelledError:
            arrival.leave()
            accepted.close()
            raise

    def _refuse_at_once(self, accepted: socket.socket, refusal: Response) -> None:
        """Respond without waiting for the request; a TLS client sees only the close."""
        with accepted, suppress(OSError):
            if not self._tls:
                with suppress(BlockingIOError):  # unread bytes would make the kernel send a reset
                    accepted.recv(_DISCARD_BYTES)
                lines = [f"HTTP/1.1 {refusal.status} Refused"]
                lines += [f"{name}: {value}" for name, value in refusal.headers]
                lines += [f"Content-Length: {len(refusal.body)}", "Connection: close", "", ""]
                accepted.send("\r\n".join(lines).encode() + refusal.body)


def listen(host: str, port: int) -> socket.socket:
    """Open a shared address: the kernel distributes connections over its listeners."""
    return open_port(host, port, backlog=BACKLOG, reuse_port=True)


def set_socket_options(listening: socket.socket, settings: Settings) -> None:
    """Set the options that accepted connections inherit (tcp(7))."""
    listening.setblocking(False)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_BYTES)
    # For vanished peers; a client that reads nothing is sent a reason before this.
    timeout = int(
        (settings.client_timeout + settings.close_timeout + _USER_TIMEOUT_MARGIN_SECS) * 1000
    )
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)


def url_of(listening: socket.socket, scheme: str) -> str:
    """Return the URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
