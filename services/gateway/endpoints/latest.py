"""/latest.json and the examples: recent messages, as other certstream servers show them."""

import asyncio
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

import msgspec

from certhttp.protocol import Request
from ctfilter import Filter, Index
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.filter_messages import certificate_of, with_matches
from gateway.delivery.history import result_of
from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.schemas import LiteMessage
from gateway.endpoints.subscribe import filter_request
from gateway.http.errors import disabled_response
from gateway.http.messages import CORS_HEADERS, JSON, DeferredResponse, Response
from gateway.hub import Hub

_COUNT: Final = 25

SEARCHED: Final = 1000
"""Newest messages from which a filter selects."""

_MAX_CONCURRENT: Final = 1  # filtered responses, each made in a thread
_SAMPLES: Final = {
    stream: (files("gateway") / "samples" / f"{stream}.json").read_bytes().rstrip()
    for stream in ("full", "domains")
}


class Latest(msgspec.Struct, frozen=True):
    """The newest messages.

    Attributes:
        messages: the newest first.
    """

    messages: list[LiteMessage]


class LatestMessages:
    """Responds with the newest messages of the stream lite that pass the filter of a request.

    Args:
        hub: has the ring.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    def respond(self, request: Request) -> Response | DeferredResponse:
        """Return the newest messages; with a filter, those of the newest `SEARCHED` that pass."""
        if (ring := self._hub.rings.get("lite")) is None:
            return disabled_response("streams.lite")
        requested = filter_request(self._hub, request)
        if isinstance(requested, Response):
            return requested
        given = self._hub.resolve(requested)
        if given is None:
            return _messages(ring.latest(_COUNT))
        newest = ring.latest(SEARCHED)

        async def respond() -> Response:
            await self._slots.acquire()
            loop = asyncio.get_running_loop()
            search = loop.run_in_executor(None, _passing, given, newest)
            # The thread continues when the client leaves.
            search.add_done_callback(lambda _: self._slots.release())
            found = await result_of(search)
            return _messages(found)

        return DeferredResponse(respond)


def _passing(given: Filter, newest: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the first `_COUNT` messages that pass a filter, with what matched."""
    index = Index()
    index.add(given, limited=False)
    found: list[tuple[str, bytes]] = []
    for number, text in newest:
        if matches := index.lookup(certificate_of("lite", text)).get(given):
            found.append((number, with_matches(text, matches)))
            if len(found) == _COUNT:
                break
    return found


def _messages(newest: Sequence[tuple[str, bytes]]) -> Response:
    texts = [with_id(number, text) for number, text in newest]
    return Response(200, (JSON, *CORS_HEADERS), b'{"messages":[%b]}' % b",".join(texts))


def example(stream: str, ring: Ring | None) -> Response:
    """Return a recent message with names; a sample if the ring has none.

    Args:
        stream: "full" or "domains".
        ring: None if the stream is disabled.
    """
    for number, message in ring.latest(_COUNT) if ring is not None else ():
        if not message.endswith(NO_NAMES):
            return Response(200, (JSON, *CORS_HEADERS), with_id(number, message))
    return Response(200, (JSON, *CORS_HEADERS), _SAMPLES[stream])


def with_id(number: str, message: bytes) -> bytes:
    """Return a message with its id."""
    return b'{"id":"%b",%b' % (number.encode(), message[1:])
