"""The baseline: a simple gateway that sends each message to each client separately.

Reads the same streams from the same Redis; each message is framed once, but written to each
client separately, as it comes.
"""

import argparse
import asyncio
from typing import cast

import uvloop
from websockets.http11 import Request
from websockets.server import ServerProtocol

from certbus.connection import connect
from certbus.keys import Keys
from certbus.streams.events import StreamBatch
from certbus.streams.reader import StreamReader
from gateway.delivery.encoding import websocket_frames


class Plain(asyncio.Protocol):
    """One client. Speaks enough of the protocol for the bench's clients."""

    def __init__(self, clients: "set[Plain]") -> None:
        self._clients = clients
        self._protocol = ServerProtocol()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._protocol.send_response(self._protocol.accept(event))
                self._clients.add(self)
        self.transport.write(b"".join(self._protocol.data_to_send()))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._clients.discard(self)


async def serve(url: str, prefix: str, port: int) -> None:
    clients: set[Plain] = set()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Plain(clients), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    async for event in StreamReader(connect(url), Keys(prefix), ["lite"]):
        if not isinstance(event, StreamBatch):
            continue
        for position, message in enumerate(event.messages):
            frame = websocket_frames(event.id, position, [message])
            for client in clients:
                client.transport.write(frame)
            await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--prefix", default="certstream:")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(serve(options.redis, options.prefix, options.port))


if __name__ == "__main__":
    main()
