"""The address where clients connect: connections are accepted, counted, and refused beyond bounds.

What a connection costs before it has a stream is bounded here:

    descriptors     the last ones are kept for Redis and the admin address
    in all          beyond the bound, the connection that has waited longest is closed
    of one address  beyond the bound, a new one is refused; proxies are counted in all alone
    idle            beyond the bound, an answer is the last one of its connection

Whoever is refused is answered 429 or 503, where that costs nothing that others need.
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

from certhttp.address import resolve
from gateway.admission.client_identity import client_address, is_within
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.error_log import LogInterval
from gateway.http.errors import ErrorCode, error_response, retry_after
from gateway.http.messages import Response

BACKLOG: Final = 4096
_UNSENT: Final = 256 * 1024  # bytes the kernel holds for a client beyond what is on the way to it
_GRACE: Final = 30.0  # seconds

_AT_ONCE: Final = 64  # connections accepted before the loop gets its turn
_RESERVED: Final = 192  # descriptors for Redis, the admin address, files, and who is refused
_REFUSING: Final = 32  # connections that are answered a refusal, at one time
_PAUSE: Final = 0.1  # seconds without accepting, once the kernel has refused a descriptor
_LOOKED_AT: Final = 64  # connections, for one that can be closed
_AGAIN: Final = 30  # seconds after which who is refused may come again
_DRAINED: Final = 64 * 1024  # bytes
_FULL: Final = "Server is at its connection limit"

log = structlog.get_logger(__name__)


class Limits(msgspec.Struct, frozen=True):
    """Bounds on connections without a stream.

    Attributes:
        descriptors: a connection whose descriptor has this number or a higher one is refused.
        waiting: in all.
        waiting_of_one: of one address.
        idle: kept open between two requests, in all.
        idle_of_one: of one address.
    """

    descriptors: int
    waiting: int = 4096
    waiting_of_one: int = 512
    idle: int = 1024
    idle_of_one: int = 16


def limits() -> Limits:
    """The bounds for this process: the kernel numbers descriptors from the lowest free one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(max(soft - _RESERVED, soft // 2))


class _Transported(Protocol):
    """A connection, as far as making room is concerned."""

    @property
    def is_answering(self) -> bool:
        """Whether it waits for this server, not for its client."""

    def close(self) -> None:
        """Hang up."""


class Arrival:
    """A connection from when it is accepted to its end, or until it has a stream.

    Args:
        listener: where.
        address: of its peer; None if it is counted in all alone.

    Attributes:
        address: of its peer, likewise.
        connection: None during a TLS handshake.
        connecting: the task that sets it up.
        refused: whether it is there to be told so.
    """

    __slots__ = ("_idle", "_listener", "address", "connecting", "connection", "refused")

    connecting: "asyncio.Task[None]"

    def __init__(self, listener: "Listener", address: str | None, *, refused: bool) -> None:
        self._listener = listener
        self._idle = False
        self.address = address
        self.connection: _Transported | None = None
        self.refused = refused

    @property
    def may_idle(self) -> bool:
        """Whether the connection may be kept open for another request."""
        return self._listener.has_room_for_idle(self.address)

    def set_idle(self, *, idle: bool) -> None:
        """Say whether it is kept open between two requests."""
        if idle != self._idle:
            self._idle = idle
            self._listener.count_idle(self.address, 1 if idle else -1)

    def leave(self) -> None:
        """It has ended, or has a stream. May be said again."""
        self.set_idle(idle=False)
        self._listener.forget(self)
        self.connection = None  # a cycle would keep both in memory until a garbage collection


class Listener:
    """Accepts connections.

    Args:
        listening: the socket.
        connect: makes what reads a connection, given how it is counted, and the answer to all
            it asks if it is refused.
        refused: counts refusals, by why: "site", "waiting", "descriptors".
        policy: has the trusted proxies, and the limit of one client.
        bounds: of connections without a stream.
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
        self._seldom = {why: LogInterval() for why in ("waiting", "descriptors")}
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more. Connections that are set up stay. May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        for arrival in tuple(self._arrivals):
            if arrival.connection is None:
                arrival.connecting.cancel()

    def has_room_for_idle(self, address: str | None) -> bool:
        """Whether another connection may be kept open between two requests."""
        if self._idle_total >= self._bounds.idle:
            return False
        if address is None:
            return True
        policy, most = self._policy(), self._bounds.idle_of_one
        if policy.limits_connections and policy.max_per_address is not None:
            most = min(most, policy.max_per_address)
        return self._idle[address] < most

    def count_idle(self, address: str | None, change: int) -> None:
        """Count a connection that is kept open, or is not any more."""
        self._idle_total += change
        self._idle[address] += change
        if not self._idle[address]:
            del self._idle[address]

    def forget(self, arrival: Arrival) -> None:
        """Count a connection no more."""
        self._refusing.discard(arrival)
        if arrival not in self._arrivals:
            return
        del self._arrivals[arrival]
        if arrival.address is not None:
            self._of_one[arrival.address] -= 1
            if not self._of_one[arrival.address]:
                del self._of_one[arrival.address]

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._say("descriptors", error=str(error))
                self._loop.remove_reader(self._listening.fileno())
                self._retry = self._loop.call_later(_PAUSE, self._accept_again)
                return
            self._take(accepted, str(peer[0]))

    def _accept_again(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._accept()

    def _take(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        trusted = self._policy().trusted_proxies
        is_proxy = bool(trusted) and is_within(client_address(peer, None, ()), trusted)
        address = None if is_proxy else peer
        refusal = self._refusal(accepted, address)
        arrival = Arrival(self, address, refused=refusal is not None)
        if refusal is None:
            self._arrivals[arrival] = None
            if address is not None:
                self._of_one[address] += 1
        elif len(self._refusing) < _REFUSING:
            self._refusing.add(arrival)
        else:
            self._refuse_at_once(accepted, refusal)
            return
        arrival.connecting = self._loop.create_task(self._set_up(arrival, accepted, refusal))

    def _refusal(self, accepted: socket.socket, address: str | None) -> Response | None:
        """Why a connection may not stay; None if it may. Makes room for it, if that is possible."""
        again = retry_after(_AGAIN)
        if accepted.fileno() >= self._bounds.descriptors:
            self._say("descriptors", descriptor=accepted.fileno())
            return error_response(ErrorCode.CONNECTION_LIMIT, _FULL, again)
        most = self._bounds.waiting_of_one
        if address is not None and self._of_one[address] >= most:
            self._refused["site"] += 1
            error = f"Connection limit per address reached ({most} without a stream for {address})"
            return error_response(ErrorCode.ADDRESS_LIMIT, error, again)
        if len(self._arrivals) >= self._bounds.waiting:
            self._say("waiting", connections=len(self._arrivals))
            if not self._make_room():
                return error_response(ErrorCode.CONNECTION_LIMIT, _FULL, again)
        return None

    def _make_room(self) -> bool:
        """Close a connection that has waited for its client for long, if there is one."""
        for arrival, _ in zip(tuple(self._arrivals), range(_LOOKED_AT), strict=False):
            if arrival.connection is None:
                arrival.connecting.cancel()
            elif not arrival.connection.is_answering:
                arrival.connection.close()
            else:
                continue
            arrival.leave()
            return True
        return False

    def _say(self, why: str, **fields: object) -> None:
        self._refused[why] += 1
        unlogged = self._seldom[why].due()
        if unlogged is not None:
            log.error("connections refused", why=why, unlogged=unlogged, **fields)

    async def _set_up(
        self, arrival: Arrival, accepted: socket.socket, refusal: Response | None
    ) -> None:
        connection = self._connect(arrival, refusal)
        try:
            # Whatever a client does in its TLS handshake raises here, and concerns nobody else.
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **self._tls)
        except Exception as error:  # noqa: BLE001
            log.debug("connection not set up", error=str(error))
            arrival.leave()
            accepted.close()
        except asyncio.CancelledError:
            arrival.leave()
            accepted.close()
            raise

    def _refuse_at_once(self, accepted: socket.socket, refusal: Response) -> None:
        """Answer without waiting for the request: a TLS client learns nothing but the end."""
        with accepted, suppress(OSError):
            if not self._tls:
                with suppress(BlockingIOError):  # unread bytes would make the kernel send a reset
                    accepted.recv(_DRAINED)
                lines = [f"HTTP/1.1 {refusal.status} Refused"]
                lines += [f"{name}: {value}" for name, value in refusal.headers]
                lines += [f"Content-Length: {len(refusal.body)}", "Connection: close", "", ""]
                accepted.send("\r\n".join(lines).encode() + refusal.body)


def listen(host: str, port: int) -> socket.socket:
    """Open the shared address; the kernel deals connections out to all who listen on it.

    `::` is every address, of IPv4 as well.
    """
    family, found = resolve(host, port)
    return socket.create_server(
        found,
        family=family,
        backlog=BACKLOG,
        reuse_port=True,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
    )


def set_socket_options(listening: socket.socket, settings: Settings) -> None:
    """Set what accepted connections inherit (tcp(7))."""
    listening.setblocking(False)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    # A vanished peer acknowledges nothing; one that reads nothing is told first.
    patience = int((settings.client_timeout + settings.close_timeout + _GRACE) * 1000)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)


def url_of(listening: socket.socket, scheme: str) -> str:
    """Spell where it listens as a URL."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
