"""The health check of the container image, for a healthy, an unhealthy and a missing server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from launcher.healthcheck import main
from tests.e2e.processes import free_port


@asynccontextmanager
async def answering(status: int) -> AsyncIterator[int]:
    """A port where every request is answered with this status."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET /health "), request
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def health(port: int, admin: int | None = None) -> int:
    environ = {"CERTSTREAM_PORT": str(port)}
    if admin is not None:
        environ["CERTSTREAM_ADMIN"] = f"0.0.0.0:{admin}"
    return await asyncio.to_thread(main, environ)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (404, 0), (500, 1), (503, 1)])
async def test_the_configured_port_is_asked(
    status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering(status) as port:
        assert await health(port) == code
    output = capsys.readouterr()
    assert f"127.0.0.1:{port} answers {status}" in (output.err if code else output.out)


async def test_an_admin_address_is_asked_first_if_somebody_listens_there() -> None:
    async with answering(200) as well, answering(503) as ill:
        assert await health(well, admin=ill) == 1
        assert await health(ill, admin=well) == 0
        assert await health(well, admin=free_port()) == 0


async def test_an_admin_address_of_every_interface_is_asked_over_ipv4() -> None:
    async with answering(200) as port:
        assert main({"CERTSTREAM_ADMIN": "[::]:1", "CERTSTREAM_PORT": "1"}) == 1
        environ = {"CERTSTREAM_ADMIN": f"[::]:{port}"}
        assert await asyncio.to_thread(main, environ) == 0


async def test_it_says_where_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    admin, port = free_port(), free_port()
    assert await health(port, admin) == 1
    assert (
        capsys.readouterr().err == f"no server listens on 127.0.0.1:{admin} or 127.0.0.1:{port}\n"
    )


async def test_it_says_what_is_wrong_with_the_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await asyncio.to_thread(main, {"CERTSTREAM_PORT": "http"}) == 1
    assert "CERTSTREAM_PORT" in capsys.readouterr().err
