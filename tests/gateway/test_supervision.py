"""What fails in a gateway fails alone: a task is begun again, a client is ended."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from certbus.ids import Cursor
from certtasks import supervise
from gateway import app
from gateway.clients.websocket import WebSocketClient
from gateway.delivery.history import HistoryReader, SharedRead
from gateway.metrics import Metrics
from tests.gateway.client_helpers import certificates, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.monitoring.test_admin import ask
from tests.gateway.publishing import Press
from tests.waiting import until


class TestSupervise:
    async def test_a_task_that_fails_is_logged_counted_and_restarted(self) -> None:
        runs = 0
        done = asyncio.Event()

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs < 4:
                raise ValueError(f"number {runs}")
            done.set()

        meter = Metrics()
        with capture_logs() as lines:
            await supervise("fanout", work, lambda: meter.failed("fanout"))
        assert done.is_set()
        failures = [line for line in lines if line["event"] == "task failed"]
        assert [line["task"] for line in failures] == ["fanout"] * 3
        assert all(line["exc_info"] for line in failures)
        pauses = [line["again_in_secs"] for line in failures]
        assert pauses == sorted(set(pauses))
        name = "certstream_gateway_task_failures_total"
        assert meter.registry.get_sample_value(name, {"task": "fanout"}) == 3
        assert meter.registry.get_sample_value(name, {"task": "rates"}) == 0

    async def test_cancelling_it_cancels_the_task(self) -> None:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        task = asyncio.create_task(supervise("fanout", work, lambda: None))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert cancelled.is_set()


@pytest.mark.parametrize("task", ["close_stalled_clients", "register"])
async def test_a_gateway_continues_when_a_task_fails(
    start: Start, press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    sound = getattr(app, task)
    failures = 0

    async def fails_at_first(*arguments: object) -> None:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise RuntimeError("unexpected")
        await sound(*arguments)

    monkeypatch.setattr(app, task, fails_at_first)
    path = tmp_path / "admin.sock"
    gateway = await (await start(admin=f"unix:{path}")).following()
    await until(lambda: failures == 2, "the task has failed twice")
    async with websocket(gateway.ws + "/") as client:
        await press.print(3)
        assert serials(await certificates(client, 3)) == [0, 1, 2]
    _, body = await ask(path, "GET /metrics")
    name = {"close_stalled_clients": "stalled", "register": "announce"}[task]
    assert f'certstream_gateway_task_failures_total{{task="{name}"}} 2.0'.encode() in body
    assert not gateway.task.done()


async def test_a_client_that_cannot_be_served_from_history_is_ended_alone(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    await press.print(2)
    gateway = await (await start()).following()

    async def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(HistoryReader, "read", broken)
    async with websocket(gateway.ws + "/") as healthy:
        async with websocket(gateway.ws + "/?cursor=0") as doomed:
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(20):
                    await doomed.recv()
        await press.print(2)
        assert serials(await certificates(healthy, 2)) == [2, 3]
    assert not gateway.task.done()


class Broken:
    """A transport that cannot be written to."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, _: bytes) -> None:
        raise RuntimeError("a bug")

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


async def test_a_client_that_cannot_be_written_to_is_ended_alone(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[WebSocketClient] = []
    join = WebSocketClient.attach

    def joining(client: WebSocketClient, cursor: Cursor | None) -> None:
        join(client, cursor)
        joined.append(client)

    monkeypatch.setattr(WebSocketClient, "attach", joining)
    gateway = await (await start()).following()
    async with websocket(gateway.ws + "/") as doomed, websocket(gateway.ws + "/") as healthy:
        await until(lambda: len(joined) == 2, "two clients")
        monkeypatch.setattr(joined[0], "transport", Broken(joined[0].transport))
        await press.print(2)
        assert serials(await certificates(healthy, 2)) == [0, 1]
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(20):
                await doomed.recv()
        assert joined[0].registry.errors.count == 1
        await press.print(2)
        assert serials(await certificates(healthy, 2)) == [2, 3]
    assert not gateway.task.done()


class TestSharedRead:
    async def test_requests_during_a_read_share_the_next_one(self) -> None:
        reads = 0
        turn = asyncio.Event()

        async def read() -> int:
            nonlocal reads
            reads += 1
            number = reads
            await turn.wait()
            return number

        shared = SharedRead(read)
        first = asyncio.create_task(shared())
        await until(lambda: reads == 1, "the first read")
        others = [asyncio.create_task(shared()) for _ in range(1000)]
        await asyncio.sleep(0)
        assert reads == 1
        others[0].cancel()
        turn.set()
        assert await first == 1
        assert await asyncio.gather(*others[1:]) == [2] * 999
        assert await shared() == 3

    async def test_an_error_reaches_each_caller_and_the_next_read_is_new(self) -> None:
        reads = 0

        async def read() -> int:
            nonlocal reads
            reads += 1
            if reads == 1:
                raise ConnectionError
            return reads

        shared = SharedRead(read)
        found = await asyncio.gather(shared(), shared(), return_exceptions=True)
        assert [type(error) for error in found] == [ConnectionError, ConnectionError]
        assert await shared() == 2
