"""Clients receive what is published, over real sockets."""

import asyncio
import json
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.gateway.conftest import Start
from tests.gateway.press import Press


async def receive(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [json.loads(await client.recv()) for _ in range(count)]


def serials(messages: list[dict[str, Any]]) -> list[int]:
    return [int(message["data"]["leaf_cert"]["serial_number"]) for message in messages]


async def test_lite(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with connect(gateway.ws + "/") as client:
        entry = await press.print(3)
        messages = await receive(client, 3)
    assert serials(messages) == [0, 1, 2]
    assert [message["id"] for message in messages] == [f"{entry}-{n}" for n in range(3)]
