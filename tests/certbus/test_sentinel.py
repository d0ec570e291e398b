"""Which Redis a client uses while sentinels disagree, and once they name another one.

The sentinels are made here, since a real one agrees with the others as soon as it reaches them.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from certbus import sentinel
from certbus.connection import connect, once
from certbus.errors import ConnectionFailed, WriteRefused
from tests.certbus.servers import RedisServer, executables
from tests.e2e.processes import free_port
from tests.waiting import until


class FakeSentinel:
    """Names a port, and counts how often it was queried.

    Attributes:
        names: the port; None for no answer.
        malformed: another reply than a sentinel's; None for none.
    """

    def __init__(self, names: int | None, malformed: bytes | None = None) -> None:
        self.names = names
        self.malformed = malformed
        self.queries = 0
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # the client has ended it
            await self._reply(reader, writer)
        writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words[0] != b"SENTINEL":
                writer.write(b"+OK\r\n")
                continue
            self.queries += 1
            if self.malformed is not None:
                writer.write(self.malformed)
            elif self.names is not None:
                port = str(self.names).encode()
                writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port))


class Pair:
    """Two servers, each of which holds its name: an earlier primary and the present one."""

    def __init__(self, directory: Path) -> None:
        self.old, self.new = free_port(), free_port()
        self._servers = []
        for name, port in (("old", self.old), ("new", self.new)):
            (directory / name).mkdir()
            executable = next(iter(executables().values()))
            server = RedisServer(executable, directory / name, port=port, appendonly="no")
            server.start()
            self._servers.append(server)
        self.reset()

    def reset(self) -> None:
        """Make both a primary."""
        for name, port in (("old", self.old), ("new", self.new)):
            with redis.Redis(port=port) as client:
                client.replicaof("NO", "ONE")
                client.config_set("min-replicas-to-write", 0)
                client.set("name", name)

    def kill(self) -> None:
        for server in self._servers:
            server.kill()

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Stop a server, which accepts connections and answers nothing."""
        server = self._servers[("old", "new").index(name)]
        server.send(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send(signal.SIGCONT)


@pytest.fixture(scope="module")
def servers_of_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.kill()


@pytest.fixture
def pair(servers_of_both: Pair) -> Pair:
    servers_of_both.reset()
    return servers_of_both


@asynccontextmanager
async def watched_by(*sentinels: FakeSentinel) -> AsyncIterator[Redis]:
    """A client of the Redis that these sentinels name."""
    async with AsyncExitStack() as stack:
        for each in sentinels:
            await stack.enter_async_context(each.listening())
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        yield await stack.enter_async_context(connect(f"redis+sentinel://{hosts}/streams/0"))


@pytest.mark.parametrize("old_is", ["demoted", "without replicas", "gone"])
async def test_one_late_sentinel_keeps_no_client_from_the_primary(pair: Pair, old_is: str) -> None:
    late = FakeSentinel(free_port() if old_is == "gone" else pair.old)
    with redis.Redis(port=pair.old) as old:
        if old_is == "demoted":
            old.replicaof("127.0.0.1", pair.new)
        if old_is == "without replicas":
            old.config_set("min-replicas-to-write", 1)
    async with watched_by(late, FakeSentinel(pair.new), FakeSentinel(pair.new)) as client:
        if old_is == "without replicas":
            with pytest.raises(WriteRefused):
                await client.set("a", "b")
        await asyncio.gather(*(client.set("a", "b") for _ in range(5)))
        assert await client.get("name") == b"new"


async def test_connections_that_are_made_at_once_skip_one_sentinel(pair: Pair) -> None:
    """Of two sentinels, so that skipping twice would lead to the first one again."""
    with redis.Redis(port=pair.old) as old:
        old.replicaof("127.0.0.1", pair.new)
    async with watched_by(FakeSentinel(pair.old), FakeSentinel(pair.new)) as client:
        await asyncio.gather(*(client.set("a", "b") for _ in range(2)))


async def test_a_primary_that_hangs_at_first_is_left(pair: Pair) -> None:
    sentinels = [FakeSentinel(pair.old), FakeSentinel(pair.new), FakeSentinel(pair.new)]
    async with watched_by(*sentinels) as client:
        with pair.stopped("old"):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("name"), 0.1)
            assert await client.get("name") == b"new"


@pytest.mark.parametrize("why", ["cancelled", "cancelled, of two", "failed", "without replicas"])
async def test_failures_lead_no_client_back(pair: Pair, why: str) -> None:
    """Two failures, after which one sentinel that is cut off is the first in turn."""
    sentinels = [FakeSentinel(pair.new), FakeSentinel(pair.new), FakeSentinel(pair.old)]
    async with watched_by(*sentinels) as client:
        with redis.Redis(port=pair.new) as new:
            assert await client.get("name") == b"new"
            await client.connection_pool.disconnect()
            if why == "cancelled, of two":
                sentinels[0].malformed = b":1\r\n"
            most = new.config_get("maxclients")["maxclients"]
            for _ in range(2):
                if why.startswith("cancelled"):
                    with pair.stopped("new"), pytest.raises(TimeoutError):
                        await asyncio.wait_for(client.get("name"), 0.1)
                if why == "failed":
                    new.config_set("maxclients", 1)
                    with pytest.raises(ConnectionFailed):
                        await once(client).get("name")
                    new.config_set("maxclients", most)
                if why == "without replicas":
                    new.config_set("min-replicas-to-write", 1)
                    with pytest.raises(WriteRefused):
                        await client.set("a", "b")
            assert await client.get("name") == b"new"


async def test_two_of_three_sentinels_are_enough(pair: Pair) -> None:
    sentinels = [FakeSentinel(pair.old) for _ in range(3)]
    async with watched_by(*sentinels) as client:
        assert await client.get("name") == b"old"
        await client.connection_pool.disconnect()
        for each in sentinels:
            each.names = pair.new
        assert await client.get("name") == b"new"
        assert [each.queries for each in sentinels] == [2, 1, 0]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients confirm the address often."""
    monkeypatch.setattr(sentinel, "CONFIRM_SECS", 0.01)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("late", [0, 1])
async def test_who_only_reads_leaves_a_primary_that_was_replaced(pair: Pair, late: int) -> None:
    """The earlier primary still answers, as one that is cut off from the other servers does."""
    sentinels = [FakeSentinel(pair.old) for _ in range(3)]
    async with watched_by(*sentinels) as client:
        assert await client.get("name") == b"old"
        for each in sentinels[late:]:
            each.names = pair.new

        async def is_left() -> bool:
            return bool(await client.get("name") == b"new")

        await until(is_left, "reading from the new primary", 10)


@pytest.mark.usefixtures("often")
async def test_one_late_sentinel_leads_no_client_back(pair: Pair) -> None:
    sentinels = [FakeSentinel(pair.new) for _ in range(3)]
    sentinels[2].names = pair.old
    async with watched_by(*sentinels) as client:

        async def is_queried() -> bool:
            assert await client.get("name") == b"new"
            return min(each.queries for each in sentinels) >= 5

        await until(is_queried, "all sentinels were queried", 10)


@pytest.mark.usefixtures("often")
async def test_sentinels_that_do_not_answer_delay_no_read(pair: Pair) -> None:
    sentinels = [FakeSentinel(pair.old) for _ in range(2)]
    async with watched_by(*sentinels) as client:
        assert await client.get("name") == b"old"
        for each in sentinels:
            each.names = None
        before = sum(each.queries for each in sentinels)

        async def is_queried() -> bool:
            assert await client.get("name") == b"old"
            return sum(each.queries for each in sentinels) > before

        await until(is_queried, "a sentinel was queried", 10)
        for _ in range(20):
            assert await client.get("name") == b"old"


async def test_new_connections_postpone_no_confirmation(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "CONFIRM_SECS", 0.2)
    sentinels = [FakeSentinel(pair.old), FakeSentinel(pair.new), FakeSentinel(pair.new)]
    async with watched_by(*sentinels) as client:
        with redis.Redis(port=pair.old) as old:

            async def is_left() -> bool:
                old.client_kill_filter(_type="normal", skipme=True)
                return bool(await client.get("name") == b"new")

            await until(is_left, "reading from the new primary", 5)


@pytest.mark.usefixtures("often")
async def test_a_primary_that_was_replaced_and_hangs_is_left(pair: Pair) -> None:
    """The sentinel that names it is the first one, and no connection to it ends."""
    sentinels = [FakeSentinel(pair.old) for _ in range(3)]
    async with watched_by(*sentinels) as client:
        assert await client.get("name") == b"old"
        with pair.stopped("old"):
            for each in sentinels[1:]:
                each.names = pair.new

            async def is_left() -> bool:
                with suppress(TimeoutError):
                    return await asyncio.wait_for(client.get("name"), 0.1) == b"new"
                return False

            await until(is_left, "reading from the new primary", 10)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "reply", [b":1\r\n", b"*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"]
)
async def test_a_sentinel_with_malformed_replies_is_skipped(pair: Pair, reply: bytes) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
    sentinels = [FakeSentinel(None, malformed=reply), FakeSentinel(pair.new)]
    async with watched_by(*sentinels) as client:

        async def is_queried() -> bool:
            assert await client.get("name") == b"new"
            return sentinels[0].queries >= 3

        await until(is_queried, "the sentinel was queried", 10)
    gc.collect()
    assert not problems


async def test_a_client_of_a_sentinel_that_closes_late_is_left_to_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its error would be written as a traceback: no code awaits it."""

    class LateClient(Redis):
        async def execute_command(self, *_: object, **__: object) -> list[bytes]:
            return [b"127.0.0.1", b"6379"]

        async def aclose(self, close_connection_pool: bool | None = None) -> None:
            await asyncio.sleep(3600)

    monkeypatch.setattr(sentinel, "ANSWER_TIMEOUT_SECS", 0.05)
    url = sentinel.SentinelURL("redis+sentinel://127.0.0.1:1/name")
    with pytest.raises(ConnectionFailed, match="did not answer"):
        await sentinel.Sentinels(url, lambda _: LateClient()).locate()
    assert asyncio.all_tasks() == {asyncio.current_task()}
