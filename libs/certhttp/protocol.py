"""HTTP/1.1 of one server connection without I/O: bytes to requests, responses to bytes.

h11 parses and frames. This file adds limits, the checks of RFC 9112 that h11 leaves out, and one
request value for all servers. The owner of the socket reads, writes and keeps the time:
`certhttp.server` with asyncio streams, the gateway with an `asyncio.Protocol`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from http.client import responses as PHRASES  # noqa: N812
from typing import Final
from urllib.parse import parse_qsl, unquote

import h11
import msgspec

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 64 * 1024
MAX_CHUNKS: Final = 1024
"""Chunks of a body. Each costs some microseconds, whatever its size."""
_PIECE_BYTES: Final = 1024
"""Bytes parsed at once. h11 limits a head, or trailers, only before it has the end."""
_MAX_QUERY_FIELDS: Final = 32

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]+)", re.IGNORECASE)
_HOST: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]+(%[-.~%\w]+)?\]|[-.~!$&'()*+,;=%\w]*)(:[0-9]*)?"
)  # RFC 3986 section 3.2.2, and IPv6 addresses with a zone
_NOT_ASCII: Final = re.compile(r"\\x[89a-f]")  # in the repr of bytes
_CODES: Final = {400: "bad_request", 431: "head_too_large", 501: "not_implemented"}
"""The statuses with which h11 reports an error, and their codes."""

Headers = Iterable[tuple[str, str]]


class Request(msgspec.Struct, frozen=True):
    """A whole request.

    Attributes:
        method: as sent.
        path: decoded, without the query.
        query: the first value of each field.
        headers: names in lower case; the values of each name joined by commas.
        body: empty if the server does not keep bodies.
        peer: address of the client; empty if it is unknown.
        connection: number of the connection.
        fields: the query, with all values of each field.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = {}
    body: bytes = b""
    peer: str = ""
    connection: int = 0
    fields: Sequence[tuple[str, str]] = ()

    @property
    def websocket(self) -> bool:
        """Whether the client requests a WebSocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


class RequestError(ValueError):
    """A request that cannot be accepted, after whose error response the connection is closed.

    Args:
        status: HTTP status code of the response.
        code: stable error code for programs.
        text: what is wrong, for people; begins with a capital.
    """

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class ServerProtocol:
    """The requests and responses of one connection, one after the other.

    Args:
        keep_bodies: whether requests have their body; else it is read and discarded.

    Attributes:
        head: of the request that is being read or answered; None between two requests.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_ended",
        "_http",
        "_keep_bodies",
        "_size",
        "_unparsed",
        "head",
    )

    def __init__(self, *, keep_bodies: bool) -> None:
        self.head: h11.Request | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._keep_bodies = keep_bodies
        self._body: list[bytes] = []
        self._size = 0
        self._chunks = 0
        self._unparsed = bytearray()
        self._ended = False

    @property
    def started(self) -> bool:
        """Whether a part of the next request has been received, or a request is being answered."""
        return self.head is not None or bool(self._unparsed or self._http.trailing_data[0])

    @property
    def unread(self) -> bytes:
        """Received bytes that belong to no request that was read."""
        return self._http.trailing_data[0] + self._unparsed

    @property
    def peer_closed(self) -> bool:
        """Whether the client has closed its side between two requests."""
        return self._http.their_state is h11.CLOSED

    @property
    def can_respond(self) -> bool:
        """Whether no response to the current request has been started."""
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def receive(self, data: bytes) -> None:
        """Take bytes from the client; none at the end of the stream."""
        self._unparsed += data
        self._ended = not data

    def next_request(self) -> Request | None:
        """Return the next request once it is whole; None until then.

        Raises:
            RequestError: the request is malformed, too large, or expects `100 Continue`.
        """
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                text = _malformed(str(error), self.unread)
                raise RequestError(status, _CODES[status], text) from None
            match event:
                case h11.Request():
                    self.head = event
                    self._body.clear()
                    self._size = self._chunks = 0
                    if self._http.they_are_waiting_for_100_continue:
                        raise RequestError(
                            417, "body_not_supported", "Request bodies are not supported"
                        )
                case h11.Data():
                    self._size += len(event.data)
                    if self._size > MAX_BODY_BYTES:
                        text = f"Request body too large; the maximum is {MAX_BODY_BYTES} bytes"
                        raise RequestError(413, "body_too_large", text)
                    self._chunks += event.chunk_end
                    if self._chunks > MAX_CHUNKS:
                        text = f"Too many chunks in the request body; the maximum is {MAX_CHUNKS}"
                        raise RequestError(413, "body_too_large", text)
                    if self._keep_bodies:
                        self._body.append(bytes(event.data))
                case h11.EndOfMessage():
                    assert self.head is not None
                    return parse_request(self.head, b"".join(self._body))
                case h11.NEED_DATA if self._unparsed or self._ended:
                    self._http.receive_data(bytes(self._unparsed[:_PIECE_BYTES]))
                    self._ended = self._ended and bool(self._unparsed)
                    del self._unparsed[:_PIECE_BYTES]
                case _:  # NEED_DATA, PAUSED, ConnectionClosed
                    return None

    def encode(self, status: int, headers: Headers, body: bytes, *, close: bool = False) -> bytes:
        """Encode a whole response; without its body if the request was HEAD."""
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            headers = (*headers, ("Content-Length", str(len(body))))
        head = self.encode_head(status, headers, close=close)
        return head + (b"" if self.is_head else self.encode_data(body)) + self.encode_end()

    @property
    def is_head(self) -> bool:
        """Whether the request was HEAD, to which a response has no body."""
        return self.head is not None and self.head.method == b"HEAD"

    def encode_head(self, status: int, headers: Headers, *, close: bool = False) -> bytes:
        """Encode the head of a response. Without a Content-Length, the body is chunked."""
        fields = [*headers, ("Date", formatdate(usegmt=True))]
        if close:
            fields.append(("Connection", "close"))
        return self._send(
            h11.Response(status_code=status, headers=fields, reason=PHRASES.get(status, ""))
        )

    def encode_data(self, data: bytes) -> bytes:
        """Encode a piece of a response's body."""
        return self._send(h11.Data(data=data))

    def encode_end(self) -> bytes:
        """Encode the end of a response."""
        return self._send(h11.EndOfMessage())

    def next_cycle(self) -> bool:
        """Begin the next request; return False if the connection must be closed instead."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.head = None
        return True

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""


def parse_request(head: h11.Request, body: bytes = b"") -> Request:
    """Check the head of a request and return the request.

    Raises:
        RequestError: target, version, headers or framing are malformed, or the query is too long.
    """
    _check(head)
    target = head.target.decode()
    if absolute := _ABSOLUTE.match(head.target):  # absolute-form (RFC 9112 section 3.2.2)
        target = target[absolute.end() :]
        if not target.startswith("/"):
            target = f"/{target}"
    path, _, query = target.partition("?")
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    fields: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        text = f"Too many query fields; the maximum is {_MAX_QUERY_FIELDS}"
        raise RequestError(400, "invalid_query", text) from None
    for name, value in pairs:
        fields.setdefault(name, value)
    method = head.method.decode()
    return Request(method, unquote(path), fields, headers, body, fields=pairs)


def _check(head: h11.Request) -> None:
    """Reject malformed requests that h11 accepts."""
    target, version = head.target, head.http_version
    if target == b"*":  # asterisk-form (RFC 9112 section 3.2.4)
        if head.method != b"OPTIONS":
            method = head.method.decode()
            raise _bad(f"Method {method} not allowed with the target *; use OPTIONS")
    elif not target.startswith(b"/") and not _is_absolute(target):
        shown = target[:100].decode()
        raise _bad(
            f"Invalid request target {shown!r}; expected a path or an http:// or https:// URL"
        )
    if not version.startswith(b"1."):  # RFC 9110 section 2.5
        text = f"HTTP/{version.decode()} is not supported; use HTTP/1.1"
        raise RequestError(505, "version_not_supported", text)
    for name, value in head.headers:
        if _CONTROL.search(value):  # RFC 9110 section 5.5
            raise _bad(f"Header {name.decode()} contains a control character")
        if name == b"host" and not _HOST.fullmatch(value):  # RFC 9112 section 3.2
            raise _bad("Invalid Host; expected a name or an address, with or without a port")
    # RFC 9112 section 6.1: a proxy on the way may have seen another end of the request.
    names = {name for name, _ in head.headers}
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise _bad("Content-Length and Transfer-Encoding exclude each other")
        if version == b"1.0":
            raise _bad("HTTP/1.0 has no Transfer-Encoding")


def _is_absolute(target: bytes) -> bool:
    """Whether a target is a URL with a host, and without a user (RFC 9110 section 4.2)."""
    match = _ABSOLUTE.match(target)
    return match is not None and not match[1].startswith(b":") and bool(_HOST.fullmatch(match[1]))


def _bad(text: str) -> RequestError:
    return RequestError(400, "bad_request", text)


def _malformed(problem: str, unread: bytes) -> str:
    """Return an error text for a problem of h11.

    Args:
        problem: of h11, which may quote the line as Python writes bytes.
        unread: bytes received; they begin with the line if it is not quoted.
    """
    text, _, quoted = problem.partition(": bytearray(")
    hint = ""
    if text == "illegal request line":
        if unread.startswith(b"\x16\x03") if not quoted else quoted[2:].startswith(r"\x16\x03"):
            hint = "; this is a TLS handshake; connect without TLS"
        elif _NOT_ASCII.search(quoted.replace("\\\\", "").partition(" ")[2]):  # after the method
            hint = "; percent-encode characters that are not ASCII"
    return f"Malformed request: {text}{hint}"
