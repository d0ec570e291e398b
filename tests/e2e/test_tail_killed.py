"""`tail --cursor-file` into a file while tail, gateway and server are killed at random moments.

TAIL_KILLED_SECS in the environment sets for how long; the suite has time for a few kills.
"""

import asyncio
import math
import os
import random
import signal
import time
from itertools import cycle
from pathlib import Path

import msgspec

from certbus.ids import Cursor, EntryId, parse_cursor
from launcher.commands.tail.cursor_file import SAVE_INTERVAL_SECS
from launcher.runtime.embedded_redis import find_running
from tests.e2e.processes import CERTSTREAM_SERVER, Process, free_port
from tests.e2e.site import Site
from tests.waiting import until

SECONDS = float(os.environ.get("TAIL_KILLED_SECS", "4"))
MAX_PAUSE_SECS = 2.5 if SECONDS < 30 else 10.0  # so that much is written between two kills
RATE = 100
LATE_SECS = 4.0  # of a timer on a loaded machine


class Line(msgspec.Struct):
    """One line of the output.

    Attributes:
        id: of the message.
        sha256: of the certificate.
        start: position in the file.
    """

    id: str
    sha256: str
    start: int

    @property
    def order(self) -> tuple[EntryId, float]:
        return order(parse_cursor(self.id))


def order(cursor: Cursor) -> tuple[EntryId, float]:
    """Return the sort key: a whole batch is above its last message."""
    return cursor.entry, math.inf if cursor.position is None else cursor.position


class Kill(msgspec.Struct):
    """One kill of tail.

    Attributes:
        started: size of the output when this tail started.
        size: of the output then.
        flushed: size of the output before the last second, so that its last id had to be stored.
        cursor: in the file then.
    """

    started: int
    size: int
    flushed: int
    cursor: Cursor


class Sink:
    """A `tail` that appends to a file."""

    def __init__(self, directory: Path, port: int) -> None:
        self.output, self.cursor = directory / "output", directory / "cursor"
        self.output.touch()
        command = [*CERTSTREAM_SERVER, "tail", f"ws://127.0.0.1:{port}", "--lite", "--since=0"]
        line = " ".join([*command, f"--cursor-file={self.cursor}", f">>{self.output}"])
        self.process = Process("tail", ["sh", "-c", f"exec {line}"], directory)
        self.kills: list[Kill] = []
        self.sizes: list[tuple[float, int]] = []  # of the output, with times

    def kill(self) -> None:
        self.process.kill()
        bound = time.monotonic() - SAVE_INTERVAL_SECS - LATE_SECS
        flushed = max((size for at, size in self.sizes if at <= bound), default=0)
        cursor = parse_cursor(self.cursor.read_text().strip())
        size = self.output.stat().st_size
        started = self.kills[-1].size if self.kills else 0
        self.kills.append(Kill(started, size, flushed, cursor))
        self.process.restart()

    async def record_sizes(self) -> None:
        while True:
            self.sizes.append((time.monotonic(), self.output.stat().st_size))
            await asyncio.sleep(0.05)

    def lines(self) -> list[Line]:
        """The complete messages; a kill may have cut a line."""
        lines, start = [], 0
        for text in self.output.read_bytes().splitlines(keepends=True):
            try:
                message = msgspec.json.decode(text)
            except msgspec.DecodeError:
                pass
            else:
                sha256 = message["data"]["leaf_cert"]["sha256"].replace(":", "").lower()
                lines.append(Line(message["id"], sha256, start))
            start += len(text)
        return lines


async def test_every_certificate_at_least_once(site: Site, tmp_path: Path) -> None:
    port, chance = free_port(), random.Random(os.environ.get("SEED", "1"))
    await site.start_logs(
        rfc6962=1, static_ct=1, rate=RATE, total=int(RATE * (SECONDS + 4)), start=time.time() + 4
    )
    config = await site.configure(connection_limit={"enabled": False})
    options = (f"--config={config}", f"--state-dir={tmp_path / 'state'}", f"--port={port}")
    server = site.start_up({}, *options, "--host=127.0.0.1", "--from-start", "--log-format=json")
    sink = Sink(tmp_path, port)
    site.processes.append(sink.process)
    try:
        await until(sink.cursor.exists, "the first id is stored")
        sizes = asyncio.create_task(sink.record_sizes())
        turns, ends = cycle(("tail", "gateway", "server", "tail")), time.monotonic() + SECONDS
        while time.monotonic() < ends:
            match next(turns):
                case "tail":
                    sink.kill()
                case "gateway":
                    kill_gateway(server)
                case _:
                    server.kill()
                    server.restart()
            await asyncio.sleep(chance.uniform(0.1, MAX_PAUSE_SECS))
        sizes.cancel()

        async def everything_ingested() -> bool:
            url = find_running(tmp_path / "state")
            site.redis_url = url or ""
            return url is not None and await site.everything_ingested()

        await until(everything_ingested, "everything is ingested")
        expected = {entry.sha256 for entry in await site.record()}
        await until(
            lambda: {line.sha256 for line in sink.lines()} == expected, "all is written", 60
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{site.report()}") from None
    assert sink.process.stop() == 0
    check_repeats(sink)


def kill_gateway(server: Process) -> None:
    """Kill the newest gateway, if it still runs; the server starts another one."""
    lines = server.log.read_bytes().splitlines()
    started = [msgspec.json.decode(line) for line in lines if b'"child started"' in line]
    gateways = [line for line in started if line["child"] == "gateway-1"]
    if gateways and gateways[-1]["pid"] == server.pid:
        try:
            os.kill(gateways[-1]["child_pid"], signal.SIGKILL)
        except ProcessLookupError:
            return


def check_repeats(sink: Sink) -> None:
    """Check that only lines after the stored id are repeated, and that it was not old.

    Only what a tail printed in its last second may come after the stored id.
    """
    lines = sink.lines()
    assert len({line.id for line in lines}) == len({line.sha256 for line in lines})
    for kill in sink.kills:
        stored = order(kill.cursor)
        assert all(line.order > stored for line in lines if line.start >= kill.size)
        old = [line.order for line in lines if kill.started <= line.start < kill.flushed]
        assert not old or max(old) <= stored
    repeated = len(lines) - len({line.id for line in lines})
    print(f"\n{len(lines)} lines, {repeated} repeated after {len(sink.kills)} kills of tail")
