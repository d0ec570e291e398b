"""A tiny HTTP server that sends exactly the answers of a test, however wrong they are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Answer:
    body: bytes = b""
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    # Bytes after which the connection is cut; None: all of it is sent.
    cut: int | None = None
    # Never answer at all.
    silent: bool = False


def redirect(location: str) -> Answer:
    return Answer(status="302 Found", headers={"location": location})


# Where these lead is no URL to idna, and no address to the socket module.
NOWHERE = ("http://xn--a/", "http://127.0.0.1:99999/")


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    time: float


class HostileServer:
    """`answers[path]` is a list of answers; the last one repeats. Unknown paths are 404.

    Attributes:
        accepted: connections so far.
        open: connections now.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer] | Callable[[str], Answer]] = {}
        self.requests: list[Request] = []
        self.url = ""
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def open(self) -> int:
        return len(self._writers)

    def hang_up(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.close()

    def count(self, path: str) -> int:
        return sum(request.path == path for request in self.requests)

    def _answer(self, path: str) -> Answer:
        answers = self.answers.get(path)
        if answers is None:
            answers = self.answers.get("*")
        if answers is None:
            return Answer(status="404 Not Found")
        if callable(answers):
            return answers(path)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                path = first.split(" ")[1]
                headers = dict(line.lower().split(": ", 1) for line in lines if line)
                self.requests.append(Request(path, headers, asyncio.get_running_loop().time()))
                answer = self._answer(path)
                if answer.silent:
                    await asyncio.Event().wait()
                fields = {"content-length": str(len(answer.body)), **answer.headers}
                text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
                writer.write(f"HTTP/1.1 {answer.status}\r\n{text}\r\n".encode())
                writer.write(answer.body[: answer.cut])
                await writer.drain()
                if answer.cut is not None:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def hostile_server(host: str = "127.0.0.1") -> AsyncIterator[HostileServer]:
    hostile = HostileServer()
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(hostile.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, host, 0)
    hostile.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield hostile
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
