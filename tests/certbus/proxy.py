"""A proxy in front of Redis that loses replies to what Redis has executed."""

import asyncio
from pathlib import Path
from typing import Self


class LossyProxy:
    """Forwards a unix socket to another; `lose_next` makes one command's reply vanish."""

    def __init__(self, target: Path, path: Path) -> None:
        self.url = f"unix://{path}"
        self.lost = 0
        self._target = target
        self._path = path
        self._marker: bytes | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def lose_next(self, marker: bytes) -> None:
        """Lose the reply to the next request that contains `marker`, with its connection."""
        self._marker = marker

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        lose = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(65536):
                if self._marker is not None and self._marker in data:
                    self._marker = None
                    lose.set()
                upstream_writer.write(data)
                await upstream_writer.drain()

        async def replies() -> None:
            while data := await upstream_reader.read(65536):
                if lose.is_set():
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(requests()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            upstream_writer.close()
