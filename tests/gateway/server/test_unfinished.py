"""Requests that do not end as they began: the client leaves, the policy changes, an error."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from certhttp.protocol import Request
from gateway.admission.client_identity import ClientIdentity
from gateway.admission.controller import AdmissionController, ConnectionSlot
from gateway.admission.credentials import TokenOwner
from gateway.config import Settings
from gateway.http.errors import ErrorCode
from gateway.http.messages import DeferredResponse, Outcome, Response
from gateway.hub import FilterRefused
from gateway.server import connection as module
from gateway.server.connection import HTTPConnection, Phase
from tests.gateway.admission.gateways import request
from tests.gateway.client_helpers import Raw, upgrade_request
from tests.gateway.server.test_connection import Server, serving
from tests.waiting import until

LOGGED = Settings(access_log=True)
OWNER = TokenOwner(b"", "owner", "free", filter="brand")


class Admission:
    """Admits everything, after a step of the test.

    Attributes:
        policy: the present one.
        during: called while Redis counts a request.
        slots: those that were acquired and not released.
    """

    def __init__(
        self,
        during: Callable[[], None] = lambda: None,
        *,
        blocking: bool = True,
        owner: TokenOwner | None = None,
    ) -> None:
        self.policy = SimpleNamespace(trusted_proxies=())
        self.during = during
        self.slots = 0
        self._blocking = blocking
        self._owner = owner

    def restricts(self, _: Request) -> bool:
        return False

    def identify(self, _: Request, peer: str) -> tuple[ClientIdentity, None]:
        assert peer == "127.0.0.1"
        return ClientIdentity(peer, self._owner), None

    def is_blocking(self, _: Request) -> bool:
        return self._blocking

    def check_stream(self, _: ClientIdentity, __: str) -> None:
        return None

    async def check_request(self, _: ClientIdentity) -> tuple[tuple[str, str], ...]:
        await asyncio.sleep(0)
        self.during()
        return (("RateLimit-Remaining", "1"),)

    async def acquire_connection(self, _: ClientIdentity) -> ConnectionSlot:
        return self.acquire_unlimited(_)

    def acquire_unlimited(self, _: ClientIdentity) -> ConnectionSlot:
        self.slots += 1
        return cast("ConnectionSlot", self)

    def release(self) -> None:
        self.slots -= 1


def admitting(
    admission: Admission, answer: Callable[[Request], Outcome]
) -> AbstractAsyncContextManager[Server]:
    """Serve requests that `admission` admits."""
    return serving(answer, admission=cast("AdmissionController", admission))


def page(_: Request) -> Outcome:
    return Response(200, (), b"here")


async def test_a_request_whose_connection_is_lost_is_logged_without_a_status() -> None:
    cancelled = asyncio.Event()

    async def never() -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    with capture_logs() as lines:
        async with serving(lambda _: DeferredResponse(never), LOGGED) as server:
            async with await Raw.open(server.port) as client:
                client.send(request("/page"))
                await until(lambda: server.connections and server.connections[0].is_answering)
                server.connections[0].transport.abort()
                await cancelled.wait()
            await until(lambda: any(line["event"] == "request ended" for line in lines))
    (line,) = (line for line in lines if line["event"] == "request ended")
    assert (line["path"], line["status"]) == ("/page", None)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_response_to_a_client_that_has_left_is_dropped(fails: bool) -> None:
    async def leave() -> Response:
        server.connections[0].transport.abort()
        if fails:
            raise ZeroDivisionError
        return Response(200, (), b"")

    async with serving(lambda _: DeferredResponse(leave)) as server:
        async with await Raw.open(server.port) as client:
            client.send(request("/page"))
            assert await client.closed()
        await until(lambda: not server.service.pending_connections)
        assert server.service.errors.count == fails


@pytest.mark.parametrize("path", ["/", "/page"])
async def test_a_slot_of_a_client_that_has_left_is_released(path: str) -> None:
    admission = Admission(lambda: server.connections[0].transport.abort())  # noqa: PLW0108
    async with admitting(admission, page) as server:
        async with await Raw.open(server.port) as client:
            client.send(upgrade_request(path))
            assert await client.closed()
        await until(lambda: not server.service.pending_connections)
    assert admission.slots == 0


async def test_a_policy_that_changes_while_a_request_is_admitted_holds_for_it() -> None:
    counted: list[object] = []

    def change() -> None:
        counted.append(admission.policy)
        if len(counted) == 1:
            admission.policy = SimpleNamespace(trusted_proxies=())

    admission = Admission(change)
    async with admitting(admission, page) as server, await Raw.open(server.port) as client:
        client.send(upgrade_request("/domains-only"))
        assert (await client.head())[0] == 101
        assert len(counted) == 2
        assert admission.slots == 1
    await until(lambda: admission.slots == 0)


@pytest.mark.parametrize("blocking", [False, True])
async def test_the_filter_of_a_token_is_added_to_its_requests(blocking: bool) -> None:
    fields: list[tuple[str, str]] = []

    def show(received: Request) -> Outcome:
        fields[:] = received.fields
        return Response(200, (), b"")

    admission = Admission(blocking=blocking, owner=OWNER)
    async with admitting(admission, show) as server, await Raw.open(server.port) as client:
        client.send(request("/page?a=b"))
        _, headers, _ = await client.answer()
        assert ("ratelimit-remaining" in headers) == blocking
    assert fields == [("a", "b"), ("filter", "brand")]


@pytest.mark.parametrize("sent", [upgrade_request("/domains-only"), request("/sse")])
async def test_a_stream_does_not_begin_when_the_server_stops(sent: bytes) -> None:
    admission = Admission(lambda: server.connections[0].close())  # noqa: PLW0108
    async with admitting(admission, page) as server, await Raw.open(server.port) as client:
        client.send(sent)
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (503, "shutting_down")
        assert await client.closed()
    assert admission.slots == 0


@pytest.mark.parametrize("sent", [upgrade_request("/domains-only"), request("/sse")])
@pytest.mark.parametrize("code", [ErrorCode.INVALID_FILTER, ErrorCode.FILTER_LIMIT])
async def test_a_filter_without_a_place_is_refused(
    sent: bytes, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FilterRefused(code, "no place")

    async with serving(page) as server, await Raw.open(server.port) as client:
        monkeypatch.setattr(server.service, "channel", refuse)
        for _ in range(2):
            client.send(sent)
            status, headers, body = await client.answer()
            assert (status, json.loads(body)["error"]) == (code.status, "no place")
            assert ("retry-after" in headers) == (code.status == 503)


async def test_an_error_in_a_pipelined_request_ends_its_connection() -> None:
    served: list[str] = []

    def fail_once(received: Request) -> Outcome:
        served.append(received.path)
        if len(served) == 2:
            raise ZeroDivisionError
        return Response(200, (), b"")

    async with serving(fail_once) as server, await Raw.open(server.port) as client:
        client.send(request("/page") * 3)
        assert [(await client.answer())[0] for _ in range(2)] == [200, 500]
        assert await client.closed()
    assert len(served) == 2


async def test_an_error_in_the_response_to_an_error_resets_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "internal_error", fail)
    async with serving(fail) as server, await Raw.open(server.port) as client:
        client.send(request("/page"))
        assert await client.closed()
        assert server.service.errors.count == 2
        await until(lambda: not server.service.pending_connections)


async def test_a_connection_without_keep_alive_ends_after_its_response() -> None:
    async with serving(page) as server, await Raw.open(server.port) as client:
        client.send(request("/page", Connection="close"))
        assert (await client.answer())[2] == b"here"
        assert await client.closed()


async def test_a_client_that_takes_nothing_while_its_request_is_answered() -> None:
    """The phase stays ANSWER, whose time-out counts, not the one of a write."""
    ready = asyncio.Event()

    async def wait() -> Response:
        await ready.wait()
        return Response(200, (), b"late")

    async with (
        serving(lambda _: DeferredResponse(wait)) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(request("/page"))
        await until(lambda: server.connections and server.connections[0].is_answering)
        connection: HTTPConnection = server.connections[0]
        connection.pause_writing()
        assert connection.is_answering
        connection.resume_writing()
        assert connection.is_answering
        ready.set()
        assert (await client.answer())[2] == b"late"
        await until(lambda: connection.phase is Phase.IDLE)
