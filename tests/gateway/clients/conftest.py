"""Fixtures of the tests of clients."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.clients.echo_server import Echo, echo_server


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A server that returns the messages of its WebSocket clients."""
    async with echo_server() as echo:
        yield echo
