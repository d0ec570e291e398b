"""Filters that change while clients are connected.

A WebSocket client replaces its filter with `{"type":"subscribe","match":[...]}`, except that of its
token, and a reload of the configuration replaces the lines of named filters.

The answer, `subscribed` with the id after which the new filter holds, is exactly between the last
message under the old filter and the first one under the new. An error leaves the old filter.
Each request is answered, in their order, also to a client whose send buffer is full; one that sends
more requests without reading is closed. Messages of other types are ignored.
"""

import asyncio
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ctfilter import Filter, FilterError, parse_filter
from gateway.clients.base import MAX_WAITING_ANSWERS, Client
from gateway.delivery.channel import MAX_SLICE_SECS
from gateway.endpoints.subscribe import MAX_REGEXES
from gateway.http.errors import ErrorBody, ErrorCode, filter_error
from gateway.http.messages import FilterRequest
from gateway.hub import FilterRefused, Hub

MIN_INTERVAL_SECS: Final = 10.0
"""Between two requests of one client."""

_MAX_INLINE_LINES: Final = 50  # a thread parses longer lists, and those with more regexes

_PARSING_RETRY_SECS: Final = 1.0  # after a request during the parsing of another

_POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1
_CLOSE_CODES: Final = {ErrorCode.FILTER_LIMIT: 1013}  # "Try Again Later", of the IANA registry

_BAD_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the decoder raises for a binary message, which need not be UTF-8, or a deeply nested one."""

_NO_LINES: Final = '"match" needs lines; null requests the unfiltered stream'


class _Kind(msgspec.Struct):
    type: str


class _Request(msgspec.Struct):
    match: list[str] | None


class _Subscribed(msgspec.Struct):
    id: str | None
    match: list[str] | UnsetType | None = UNSET
    message_type: Literal["subscribed"] = "subscribed"
    filters: tuple[str, ...] | UnsetType = UNSET


class _Error(ErrorBody, frozen=True, kw_only=True):
    message_type: Literal["error"] = "error"
    line: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class FilterChanges:
    """Handles the messages of WebSocket clients, and new lines of named filters.

    Args:
        hub: the channels with and without filters.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_list = asyncio.Lock()
        self._parsing: dict[Client, list[_Error]] = {}  # answers after that of the list

    def receive(self, client: Client, message: bytes) -> None:
        """Handle a message. Each `subscribe` is answered, in their order."""
        kind = None
        with suppress(*_BAD_JSON):
            kind = msgspec.json.decode(message, type=_Kind).type
        if kind != "subscribe":
            return
        now = asyncio.get_running_loop().time()
        waiting = self._parsing.get(client)
        wait = max(client.may_change_at - now, 0 if waiting is None else _PARSING_RETRY_SECS)
        if wait > 0:
            text = f"One subscribe per {MIN_INTERVAL_SECS:g} s; retry after {wait:.1f} s"
            error = _Error(text, ErrorCode.RATE_LIMITED, retry_after=round(wait, 1))
            if waiting is None:
                _send(client, error)
            elif len(waiting) < MAX_WAITING_ANSWERS:
                waiting.append(error)
            else:
                client.close(_POLICY_VIOLATION, "too many requests")
            return
        client.may_change_at = now + MIN_INTERVAL_SECS
        try:
            lines = msgspec.json.decode(message, type=_Request).match
        except _BAD_JSON as problem:
            _refuse(client, f"Invalid subscribe: {problem}")
            return
        if lines is None:
            self._apply(client, None)
        elif not lines:
            _refuse(client, f"Invalid subscribe: {_NO_LINES}")
        elif len(lines) <= _MAX_INLINE_LINES and _regexes(lines) <= MAX_REGEXES:
            try:
                given = parse_filter(match=lines)
            except FilterError as problem:
                _send(client, _filter_error(problem))
            else:
                self._apply(client, given)
        else:
            self._parsing[client] = []
            task = asyncio.get_running_loop().create_task(self._parse(client, lines))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _parse(self, client: Client, lines: list[str]) -> None:
        """Parse a long list beside the event loop, and place it.

        One at a time: this bounds its memory, and look-ups continue during the parsing of the next.
        """
        try:
            async with self._one_list:
                if client.closed:
                    return
                given = await asyncio.to_thread(parse_filter, match=lines)
                if not client.closed:
                    self._apply(client, given)
                await self._hub.filters.shared.place()
        except FilterError as problem:
            if not client.closed:
                _send(client, _filter_error(problem))
        except Exception as error:  # noqa: BLE001
            client.fail(error)
        finally:
            for later in self._parsing.pop(client):
                if not client.closed:
                    _send(client, later)

    async def renew(self, names: AbstractSet[str]) -> None:
        """Apply the present lines of named filters to the clients that have requested them.

        A client is closed if a filter no longer exists, or if its filters together have no place; a
        named filter alone always has one.
        """
        channels = list(self._hub.filters.channels.values())
        clients = dict.fromkeys(client for channel in channels for client in channel.clients)
        began = perf_counter()
        for client in clients:
            if client.closed or names.isdisjoint(client.requested.names):
                continue
            try:
                self._switch(client, client.requested, UNSET)
            except FilterRefused as refused:
                # The reason of a close frame is cut after 123 bytes: what a client needs is first.
                code = _CLOSE_CODES.get(refused.code, _POLICY_VIOLATION)
                client.close(code, f"{client.resume_hint} elsewhere; {refused}")
            if perf_counter() - began > MAX_SLICE_SECS:
                await asyncio.sleep(0)
                began = perf_counter()

    def _apply(self, client: Client, given: Filter | None) -> None:
        lines = None if given is None else [line.text for line in given.groups[0]]
        try:
            self._switch(client, FilterRequest(_of_token(client), given), lines)
        except FilterRefused as refused:
            _send(client, _Error(str(refused), refused.code))

    def _switch(
        self, client: Client, requested: FilterRequest, lines: list[str] | UnsetType | None
    ) -> None:
        """Continue a client with other filters.

        Args:
            client: the client.
            requested: its filters from now on.
            lines: `match` of the message `subscribed`.

        Raises:
            FilterRefused: the client keeps the old filters.
        """
        given = self._hub.resolve(requested)
        encoding = client.encoding(filtered=given is not None)
        channel = self._hub.channel(client.channel.stream, encoding, given)
        client.requested = requested
        client.switch(channel, partial(_subscribed, lines, requested.names or UNSET))


def _regexes(lines: list[str]) -> int:
    """Return the number of regexes of lines, or more."""
    return sum(line.count("regex:") for line in lines)


def _of_token(client: Client) -> tuple[str, ...]:
    """Return the name of the filter to which the token of a client is bound, if it is."""
    owner = None if client.slot is None else client.slot.client.owner
    return () if owner is None or owner.filter is None else (owner.filter,)


def _subscribed(
    lines: list[str] | UnsetType | None, names: tuple[str, ...] | UnsetType, cursor: str | None
) -> bytes:
    return msgspec.json.encode(_Subscribed(cursor, lines, filters=names))


def _refuse(client: Client, error: str) -> None:
    _send(client, _Error(error, ErrorCode.INVALID_FILTER))


def _filter_error(problem: FilterError) -> _Error:
    return _Error(**msgspec.structs.asdict(filter_error(problem)), line=problem.value)


def _send(client: Client, error: _Error) -> None:
    text = msgspec.json.encode(error)
    client.answer(lambda _: text)
