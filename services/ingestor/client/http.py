"""One URL of a log -> one bounded body.

    slot        the log may be requested (`log_availability.py`), in a slot of its operator
                (`throttle.py`)
    attempt     GET within `timeout` seconds
    redirect    another slot and another GET, at most `MAX_REDIRECTS` times, never from HTTPS to
                plain HTTP, and never from a public address to an internal one (`addresses.py`)
    body        read raw and counted against the caller's limit; gunzipped against the same limit,
                large ones in a thread
    status      200 is a body; the rest is an error. `log_availability.py` decides which requests
                are sent again, and pauses the log after a 429 or a Retry-After

httpx speaks HTTP/1.1, on one connection for each request in flight (`connections.py`). The fetcher
reads raw bytes, because httpx decompresses without a limit: a gzip bomb would be unpacked whole
before its size is known.
"""

import asyncio
import email.utils
import http
import re
import time
import zlib
from collections.abc import Mapping
from datetime import UTC
from functools import partial
from importlib.metadata import version

import httpx
import msgspec

from certconf.settings import Config
from ingestor.client.addresses import FILE, ForbiddenAddress, HttpClients, leads_inside
from ingestor.client.connections import connection_client
from ingestor.client.errors import (
    TOO_MANY_REQUESTS,
    ConnectionFailed,
    InvalidResponse,
    LogError,
    ResponseTooLarge,
    UnexpectedStatus,
)
from ingestor.client.log_availability import MAX_PAUSE_SECS, LogAvailability
from ingestor.client.throttle import Purpose
from ingestor.metrics import FetchOutcome, Measured

MAX_REDIRECTS = 3
NO_HEADERS: Mapping[str, str] = {}
_PRODUCT = f"certstream-server/{version('certstream-server')}"  # of a file: read at the start
_MAX_HEADER = 256
_GZIP_MAGIC = b"\x1f\x8b"
# Members of one gzip body (RFC 1952 section 2.2); some tools make one of each 64 KiB.
_MAX_MEMBERS = 4096
_PIECE = 64 << 10
# Bodies that gunzip, in less than about 20 ms, on the event loop: bytes before and after.
_SMALL_GZIP = 512 << 10
_SMALL_BODY = 8 << 20
# RFC 9110 section 5.6.7: the form of C's asctime(), always in UTC.
_ASCTIME = re.compile(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}")


class Validators(msgspec.Struct, frozen=True):
    """A server's names of one version of a body (RFC 9110 section 8.8); empty without one."""

    etag: str = ""
    modified: str = ""

    def headers(self) -> dict[str, str]:
        """Of a request for another version only."""
        named = {"if-none-match": self.etag, "if-modified-since": self.modified}
        return {name: value for name, value in named.items() if value}


class Version(msgspec.Struct, frozen=True):
    """A body, and what its server calls it."""

    body: bytes
    validators: Validators


class _Redirect(msgspec.Struct, frozen=True):
    """Where a body is instead.

    Attributes:
        url: there.
        trusted: whether it may be at an address inside.
    """

    url: str
    trusted: bool


def user_agent(config: Config) -> str:
    """Return the header `User-Agent` of all requests to logs."""
    if config.ct_log.user_agent is not None:
        return config.ct_log.user_agent
    return f"{_PRODUCT} (+{config.contact})" if config.contact else _PRODUCT


def http_client(agent: str = "certstream-server", connect_timeout: float = 10.0) -> HttpClients:
    """Make the connection pools that all logs of a process share.

    Args:
        agent: the header `User-Agent`.
        connect_timeout: seconds for DNS, TCP and TLS together.
    """
    make = partial(
        connection_client,
        httpx.create_ssl_context(),  # one for all: it reads the certificates of all CAs
        headers={"user-agent": agent, "accept-encoding": "gzip"},
        # Reads are bounded as a whole, by the deadline of an attempt.
        timeout=httpx.Timeout(None, connect=connect_timeout),
    )
    return HttpClients(make)


class Fetcher:
    """GETs URLs of one log.

    Args:
        http: the connection pools that all logs share.
        log: its name.
        timeout: seconds for one request with its body.
        measured: receives the outcome and duration of each request.
        availability: decides when the log is requested; None: at any time, and once.
        listed_at: server of the list that names the log, as `Log.listed_at`; None: it is
            configured, so its URL may lead to any address; empty: not known, to public ones only.
    """

    def __init__(
        self,
        http: HttpClients,
        log: str,
        timeout: float,
        measured: Measured = lambda _outcome, _spent: None,
        availability: LogAvailability | None = None,
        listed_at: str | None = None,
    ) -> None:
        self.log = log
        self._availability = availability
        self._listed_at = listed_at
        self._trusted = listed_at in (None, FILE)
        self._measured = measured
        self._http = http
        self._timeout = timeout

    async def get_log(self, url: str, limit: int, *, purpose: Purpose = Purpose.OTHER) -> bytes:
        """Fetch a body.

        Args:
            url: what to get.
            limit: the most bytes the body may have, on the wire and decompressed.
            purpose: decides which requests come first, and how many wait for slots.

        Raises:
            LogError: the last attempt's error; which one, see `errors.py`.
        """
        attempt = partial(self.attempt, url, limit, purpose=purpose)
        available = self._availability
        return (await (attempt() if available is None else available.repeat(attempt))).body

    async def get_external(self, url: str, limit: int, had: Validators) -> Version | None:
        """Fetch a body in one attempt, unless it is the one that was had before.

        Args:
            url: what to get.
            limit: as for `get_log`.
            had: what came with the one before.

        Raises:
            LogError: which one, see `errors.py`.
        """
        try:
            return await self.attempt(url, limit, had.headers())
        except UnexpectedStatus as error:
            if error.status == httpx.codes.NOT_MODIFIED and had.headers():
                return None
            raise

    async def attempt(
        self,
        url: str,
        limit: int,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        purpose: Purpose = Purpose.OTHER,
    ) -> Version:
        """Return one answer, after at most `MAX_REDIRECTS` redirects.

        Raises:
            LogError: which one, see `errors.py`.
        """
        place = _Redirect(url, self._trusted)
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._in_turn(url, place, limit, headers, purpose=purpose)
            if isinstance(found, Version):
                return found
            place = found
        raise InvalidResponse(self.log, url, f"more than {MAX_REDIRECTS} redirects")

    async def _in_turn(
        self,
        url: str,
        place: _Redirect,
        limit: int,
        headers: Mapping[str, str],
        *,
        purpose: Purpose,
    ) -> Version | _Redirect:
        """One request in its turn, for `url`: what is at `place`, or where it is instead."""
        available = self._availability
        if available is not None:
            await available.acquire(url, purpose=purpose)
        began = time.perf_counter()
        try:
            found = await self._request(url, place, limit, headers)
        except LogError as error:
            self._measured(_outcome(error), time.perf_counter() - began)
            if available is not None and isinstance(error, UnexpectedStatus):
                await available.record_answer(error)
            raise
        if available is not None:
            await available.record_answer()
        self._measured("ok", time.perf_counter() - began)
        return found

    async def _request(
        self, url: str, place: _Redirect, limit: int, headers: Mapping[str, str]
    ) -> Version | _Redirect:
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._exchange(url, place, limit, headers)
                except ForbiddenAddress:
                    if place.url != url or not await self._is_listed_inside():
                        raise
                    self._trusted = True
                    return await self._exchange(url, _Redirect(url, trusted=True), limit, headers)
        except TimeoutError as error:
            problem = f"no complete answer within {self._timeout:g} s"
            raise ConnectionFailed(self.log, url, problem) from error
        except ForbiddenAddress as error:
            what = "the URL" if place.url == url else f"a redirect to {place.url[:_MAX_HEADER]}"
            problem = f"{what} leads to a loopback, link-local or private address"
            raise InvalidResponse(self.log, url, problem) from error
        except LogError:
            raise
        # Not only httpx's own: a redirect may lead to what idna or the socket module trips over.
        except Exception as error:
            raise ConnectionFailed(self.log, url, _problem(error)) from error

    async def _is_listed_inside(self) -> bool:
        """Whether the server of the list that names the log is at an address inside."""
        if not self._listed_at:
            return False
        return await leads_inside(httpx.URL(self._listed_at).host)

    async def _exchange(
        self, url: str, place: _Redirect, limit: int, headers: Mapping[str, str]
    ) -> Version | _Redirect:
        extensions = None if place.trusted else self._http.guard(place.url)
        client = self._http.trusted if place.trusted else self._http.guarded
        async with client.stream(
            "GET", place.url, headers=headers, extensions=extensions
        ) as response:
            if response.next_request is not None:
                return await self._redirected(url, place, response.next_request.url)
            if response.status_code != httpx.codes.OK:
                raise self._refused(url, response)
            validators = Validators(
                _repeatable(response, "etag"), _repeatable(response, "last-modified")
            )
            return Version(await self._body(url, response, limit), validators)

    async def _redirected(self, url: str, place: _Redirect, to: httpx.URL) -> _Redirect:
        if url.startswith("https:") and to.scheme != "https":
            raise InvalidResponse(self.log, url, f"redirected to plain HTTP, {to}")
        return _Redirect(str(to), place.trusted and await leads_inside(httpx.URL(place.url).host))

    def _refused(self, url: str, response: httpx.Response) -> UnexpectedStatus:
        headers = response.headers
        wait = retry_after(headers.get("retry-after"), headers.get("date"), time.time())
        problem = f"HTTP {response.status_code} {_phrase(response.status_code)}".rstrip()
        if wait is not None:
            problem += f", retry after {wait:g} s"
        return UnexpectedStatus(self.log, url, problem, response.status_code, wait)

    async def _body(self, url: str, response: httpx.Response, limit: int) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", ""):
            raise InvalidResponse(
                self.log, url, f"content-encoding {encoding!r}, but only gzip was offered"
            )
        chunks = []
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > limit:
                raise ResponseTooLarge(self.log, url, f"body larger than {limit:,} bytes")
            chunks.append(chunk)
        body = b"".join(chunks)
        return await self._gunzip(url, body, limit) if encoding == "gzip" else body

    async def _gunzip(self, url: str, body: bytes, limit: int) -> bytes:
        """Decompress every member of a gzip body, within `limit` bytes."""
        small = min(limit, _SMALL_BODY)
        plain = _gunzip(body, small) if len(body) <= _SMALL_GZIP else None
        if plain is None and (len(body) > _SMALL_GZIP or small < limit):
            plain = await asyncio.to_thread(_gunzip, body, limit)
        if plain is None:
            problem = f"body of {len(body):,} bytes decompresses to more than {limit:,}"
            raise ResponseTooLarge(self.log, url, problem)
        if isinstance(plain, str):
            raise InvalidResponse(self.log, url, plain)
        return plain


def _gunzip(body: bytes, limit: int) -> bytes | str | None:
    """Decompress gzip (RFC 1952): one member or several. What follows them is ignored.

    Returns:
        The bytes; None if there are more than `limit`; a str that states the error.
    """
    found: list[bytes] = []
    room = limit
    # In pieces: each member copies what is left of its input.
    rest, at = body[:_PIECE], _PIECE
    for _ in range(_MAX_MEMBERS):
        inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: a gzip header and trailer
        while not inflate.eof:
            if not rest:
                rest, at = body[at : at + _PIECE], at + _PIECE
                if not rest:
                    return f"gzip body ends early, after {len(body):,} bytes"
            try:
                plain = inflate.decompress(rest, room + 1)
            except zlib.error as error:
                return f"body is not gzip: {error}"
            room -= len(plain)
            if room < 0:
                return None
            found.append(plain)
            rest = inflate.unconsumed_tail
        rest = inflate.unused_data
        if len(rest) < len(_GZIP_MAGIC):
            rest, at = rest + body[at : at + _PIECE], at + _PIECE
        if not rest.startswith(_GZIP_MAGIC):
            return b"".join(found)
    return f"gzip body of more than {_MAX_MEMBERS:,} members"


def _phrase(status: int) -> str:
    """Return the standard phrase of a status code (RFC 9110 section 15), not the server's."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def _repeatable(response: httpx.Response, header: str) -> str:
    """Return a header's value if it can be repeated in a request."""
    value: str = response.headers.get(header, "")
    return value if value.isascii() and value.isprintable() and len(value) <= _MAX_HEADER else ""


def _problem(error: Exception) -> str:
    """One line about what httpx, or something below it, raised."""
    while isinstance(error, ExceptionGroup):  # of attempts to connect
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _outcome(error: LogError) -> FetchOutcome:
    """How a request ended that gave no body."""
    match error:
        case UnexpectedStatus(status=status) if status == TOO_MANY_REQUESTS:
            return "rate_limited"
        case UnexpectedStatus(status=status) if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return "server_error"
        case UnexpectedStatus():
            return "refused"
        case _ if isinstance(error.__cause__, TimeoutError | httpx.TimeoutException):
            return "timeout"
        case _ if isinstance(error.__cause__, httpx.ConnectError | OSError):
            return "unreachable"
        case _:
            return "broken"


def retry_after(value: str | None, sent: str | None, now: float) -> float | None:
    """Read a Retry-After header (RFC 9110 section 10.2.3): seconds, or a date.

    Args:
        value: the header, if there is one.
        sent: the header Date: a date is a moment of the clock of the server. If it cannot be read,
            the clock of this host is taken for it.
        now: seconds since the epoch, of this host.

    Returns:
        Seconds to wait, between 0 and `MAX_PAUSE_SECS`; None without a readable header. A date is
        readable in GMT, UTC or with an offset: any other zone makes the header as if absent.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        wait = float(value)
    else:
        until = _moment(value)
        if until is None:
            return None
        began = None if sent is None else _moment(sent)
        wait = until - (now if began is None else began)
    return min(max(wait, 0.0), MAX_PAUSE_SECS)


def _moment(value: str) -> float | None:
    """Read a date of HTTP (RFC 9110 section 5.6.7): seconds since the epoch."""
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a year, or a time zone, beyond all counting
        return None
    if date.tzinfo is None and not _ASCTIME.fullmatch(value.strip()):
        return None  # no time zone, or one that is not known: the moment could be any
    return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
