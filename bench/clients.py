"""Many clients in one process, cheap enough not to limit the measurement.

One epoll loop over plain sockets. One client in fifty reads all it gets: counts messages, checks
that ids ascend, takes the latency from `seen`. The others let the kernel drop what it received
(MSG_TRUNC, see tcp(7)) and count bytes: clients of one stream get the same bytes, apart from signs
of life, so the bytes show whether a message is missing. With `--offer permessage-deflate` the
sampled clients decompress what they read. `{number}` in the path is the number of the client.

Speaks JSON lines on stdout: `{"connected": ...}` once all are, the results when stdin is closed.
"""

import argparse
import json
import math
import select
import signal
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

READ_BYTES = 256 * 1024  # bytes read at once
DROP_BYTES = 4 * 1024 * 1024  # bytes dropped at once
TEXT = 0x81  # first byte of a text frame
MAX_SIGN = 128  # bytes of a sign of life: heartbeat and ping, or a comment; with an id
COMPRESSED = 0x40  # its bit RSV1
CONNECTING = 64
PONG = bytes.fromhex("8a8000000000")  # masked, empty (RFC 6455 section 5.5.3)
PONG_SECS = 25.0
NEWLINE = "\r\n"
SAMPLED = 50  # one client in 50 has its latencies measured

_ID = b'{"id":"'
_SEEN = b'"seen":'
_APPEARED = b'"submission_timestamp":'


@dataclass(slots=True)
class Client:
    """One connection and what it has counted.

    Attributes:
        latencies: seconds from `seen` to receipt.
        appeared: seconds from the entry's timestamp in the log to receipt.
        inflate: decompresses messages that refer to earlier ones.
    """

    socket: socket.socket
    sampled: bool
    sse: bool
    bytes_a_second: float = math.inf
    open: bool = False
    rest: bytes = b""
    messages: int = 0
    bytes: int = 0
    signs: int = 0
    first: str = ""
    last: str = ""
    disorder: int = 0
    latencies: list[float] = field(default_factory=list)
    appeared: list[float] = field(default_factory=list)
    joined: float = 0.0
    closed: bool = False
    number: int = 0
    inflate: "zlib._Decompress" = field(default_factory=lambda: zlib.decompressobj(-15))


def request(path: str, host: str, *, sse: bool, offer: str = "") -> bytes:
    if sse:
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"{f'Sec-WebSocket-Extensions: {offer}{NEWLINE}' if offer else ''}\r\n"
    ).encode()


def order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split("-")))


def note(client: Client, payload: bytes, now: float) -> None:
    """Read what a sampled client needs of a message."""
    number = payload[7 : payload.index(b'"', 7)].decode()
    if client.last and order(number) <= order(client.last):
        client.disorder += 1
    client.first = client.first or number
    client.last = number
    for since, key in ((client.latencies, _SEEN), (client.appeared, _APPEARED)):
        at = payload.rfind(key)
        if at >= 0:
            at += len(key)
            since.append(now - float(payload[at : at + 40].partition(b",")[0].rstrip(b"}")))


def take_frames(client: Client, data: bytes, now: float) -> None:
    """Read whole text frames; keep what is not whole yet."""
    client.rest += data
    for first, size, payload in frames(client):
        text = payload
        if first & COMPRESSED:
            text = client.inflate.decompress(payload + b"\0\0\xff\xff")
        if first & ~COMPRESSED == TEXT and text.startswith(_ID):
            client.messages += 1
            note(client, text, now)
        else:
            client.signs += size


def frames(client: Client) -> Iterator[tuple[int, int, bytes]]:
    """Remove the whole frames from `client.rest`; yield first byte, size and payload of each."""
    data = client.rest
    position, size = 0, len(data)
    while position + 2 <= size:
        length = data[position + 1]
        start = position + 2
        if length == 126:
            start = position + 4
            length = int.from_bytes(data[position + 2 : start], "big")
        elif length == 127:
            start = position + 10
            length = int.from_bytes(data[position + 2 : start], "big")
        if start + length > size:
            break
        yield data[position], start + length - position, data[start : start + length]
        position = start + length
    client.rest = data[position:]


def take_events(client: Client, data: bytes, now: float) -> None:
    """Read whole events; keep what is not whole yet."""
    *whole, client.rest = (client.rest + data).split(b"\n\n")
    for event in whole:
        if event.startswith(b"id: "):
            client.messages += 1
            note(client, event.partition(b"\ndata: ")[2], now)
        else:
            client.signs += len(event) + 2


class Crowd:
    """All clients of the process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._waiting: set[int] = set()
        self._slow: list[Client] = []
        self._buffer = bytearray(DROP_BYTES)
        self._view = memoryview(self._buffer)
        self.connect_times: list[float] = []
        self._restart = False
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "_restart", True))

    def connect(self) -> float:
        """Connect all, some at a time; return the seconds that it took."""
        options = self._options
        began = time.perf_counter()
        left = options.clients
        while left or self._waiting:
            while left and len(self._waiting) < CONNECTING:
                left -= 1
                self._open(options.clients - left)
            self._receive(0.05)
        return time.perf_counter() - began

    def run(self) -> None:
        """Receive until stdin is closed; upon SIGUSR1, start counting again and stay connected."""
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        due, pong_due = 0.0, time.perf_counter() + PONG_SECS
        each = 100 * self._options.reconnect_secs / max(self._options.clients, 1)
        reconnect_due = time.perf_counter() + (each or math.inf)
        while True:
            ended = self._receive(0.02)
            if self._restart:
                self._restart = False
                reconnect_due = math.inf
                for client in self._clients.values():
                    client.messages = client.bytes = client.signs = 0
                    client.latencies.clear()
                    client.appeared.clear()
            now = time.perf_counter()
            if now >= due:
                self._read_slowly()
                due = now + 0.1
            if now >= reconnect_due:
                self._reconnect()
                reconnect_due += each
            if now >= pong_due:
                self._pong()
                pong_due = now + PONG_SECS
            if ended:
                return

    def _reconnect(self) -> None:
        """Let the client that has been connected for the longest time leave, and come back."""
        descriptor = next(iter(self._clients))
        client = self._clients.pop(descriptor)
        if not client.closed:
            self._poll.unregister(descriptor)
        self._waiting.discard(descriptor)
        client.socket.close()
        self._open(client.number)

    def _pong(self) -> None:
        """Show the server that the clients are alive: without an answer to pings it closes them."""
        for client in self._clients.values():
            if client.open and not client.sse and not client.closed:
                with suppress(OSError):
                    client.socket.send(PONG)

    def results(self) -> dict[str, object]:
        """What was received, by kind of client."""
        groups: dict[str, list[Client]] = {"normal": [], "slow": [], "stuck": []}
        for client in self._clients.values():
            rate = client.bytes_a_second
            groups["normal" if rate == math.inf else "slow" if rate else "stuck"].append(client)
        found: dict[str, object] = {}
        for name, clients in groups.items():
            if not clients:
                continue
            if name == "normal":
                found[name] = self._summary(clients)
            else:
                found[name] = {
                    "clients": len(clients),
                    "closed": sum(client.closed for client in clients),
                    "bytes": sum(client.bytes for client in clients),
                }
        return found

    def _summary(self, clients: list[Client]) -> dict[str, object]:
        """What a group received. Its sampled clients determine the expected number of bytes."""
        sampled = [client for client in clients if client.sampled]
        latencies = sorted(value for client in sampled for value in client.latencies)
        appeared = sorted(value for client in sampled for value in client.appeared)
        most = max((client.messages for client in sampled), default=0)
        whole = max((client.bytes - client.signs for client in sampled), default=0)
        mean = whole / most if most else 1
        differing = []
        for client in clients:
            signs = client.bytes - whole
            if not 0 <= signs <= 10 * MAX_SIGN:  # negative: a message is missing
                differing.append(client)
        return {
            "clients": len(clients),
            "closed": sum(client.closed for client in clients),
            "messages": most,
            "differing": len(differing),
            "lost": round(sum(abs(whole - client.bytes) / mean for client in differing)),
            "bytes": sum(client.bytes for client in clients),
            "disorder": sum(client.disorder for client in clients),
            "latency": percentiles(latencies),
            "appeared": percentiles(appeared),
        }

    def _open(self, number: int) -> None:
        options = self._options
        connection = socket.socket()
        slow = options.slow + options.stuck
        if number <= slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.setblocking(False)
        connection.connect_ex((options.host, options.port))
        rate = math.inf
        if number <= options.stuck:
            rate = 0.0
        elif number <= slow:
            rate = options.slow_rate
        client = Client(
            connection,
            sampled=(options.clients - number) % SAMPLED == 0 and rate == math.inf,
            sse=options.path.startswith("/sse"),
            bytes_a_second=rate,
            joined=time.perf_counter(),
            number=number,
        )
        self._clients[connection.fileno()] = client
        self._waiting.add(connection.fileno())
        self._poll.register(connection.fileno(), select.EPOLLOUT)

    def _receive(self, timeout: float) -> bool:
        ended, options = False, self._options
        for descriptor, events in self._poll.poll(timeout):
            client = self._clients.get(descriptor)
            if client is None:
                ended = True
            elif events & select.EPOLLOUT:
                path = options.path.replace("{number}", str(client.number))
                head = request(path, "bench", sse=client.sse, offer=options.offer)
                client.socket.send(head)
                self._poll.modify(descriptor, select.EPOLLIN)
            else:
                self._read(descriptor, client, READ_BYTES if client.sampled else DROP_BYTES)
        return ended

    def _read(self, descriptor: int, client: Client, most: int) -> int:
        drop = client.open and not client.sampled
        flags = socket.MSG_TRUNC if drop else 0
        try:
            count = client.socket.recv_into(self._buffer, most, flags)
        except BlockingIOError:
            return 0
        except ConnectionError:
            count = 0
        if not count:
            client.closed = True
            self._waiting.discard(descriptor)
            if client.bytes_a_second == math.inf or not client.open:
                self._poll.unregister(descriptor)
            client.bytes_a_second = client.bytes_a_second and math.inf
            return 0
        client.bytes += count
        if drop:
            return count
        data = bytes(self._view[:count])
        if not client.open:
            data = self._greet(descriptor, client, client.rest + data)
        if data and client.sampled:
            take = take_events if client.sse else take_frames
            take(client, data, time.time())
        return count

    def _greet(self, descriptor: int, client: Client, data: bytes) -> bytes:
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not separator:
            client.rest = data
            return b""
        status = head.split(None, 2)[1]
        if status not in (b"101", b"200"):
            raise SystemExit(f"not accepted: {head[:200]!r}")
        client.rest = b""
        client.open = True
        self._waiting.discard(descriptor)
        self.connect_times.append(time.perf_counter() - client.joined)
        if client.bytes_a_second != math.inf:
            self._poll.unregister(descriptor)
            self._slow.append(client)
        return rest

    def _read_slowly(self) -> None:
        for client in self._slow:
            budget = client.bytes_a_second / 10
            while budget > 0 and not client.closed:
                count = self._read(client.socket.fileno(), client, min(int(budget) + 1, READ_BYTES))
                if not count:
                    break
                budget -= count


def percentiles(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if not values:
        return {}
    last = len(values) - 1
    return {
        name: round(values[min(int(len(values) * share), last)] * 1000, 1)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--offer", default="", help="extensions of WebSocket")
    parser.add_argument("--slow", type=int, default=0, help="number of clients that read slowly")
    parser.add_argument("--slow-rate", type=float, default=150_000, help="bytes a second of those")
    parser.add_argument(
        "--reconnect-secs",
        type=float,
        default=0.0,
        help="each time, one client in a hundred reconnects; 0: none does",
    )
    parser.add_argument("--stuck", type=int, default=0, help="number of clients that read nothing")
    options = parser.parse_args()
    crowd = Crowd(options)
    took = crowd.connect()
    times = percentiles(sorted(crowd.connect_times))
    print(json.dumps({"connected": options.clients, "seconds": took, "each": times}), flush=True)
    crowd.run()
    print(json.dumps(crowd.results()), flush=True)


if __name__ == "__main__":
    main()
