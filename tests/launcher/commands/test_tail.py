"""`certstream-server tail` against servers that disconnect: it resumes after its last message."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.utils import accept_key

from certbus.connection import connect
from tests.certbus.servers import RedisServer
from tests.gateway.conftest import running_redis
from tests.gateway.publishing import Press
from tests.launcher.up_process import SCRIPT
from tests.waiting import until

ENOUGH = 30.0
CLOSE_SECONDS = 10.0  # that the library waits for the end of a connection, unless it is set


def names(number: int) -> str:
    return f'{{"message_type":"dns_entries","id":"{number}-0-0","data":["{number}.example"]}}'


@asynccontextmanager
async def tailing(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        "tail",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finish(process: asyncio.subprocess.Process) -> tuple[int, list[str], str]:
    out, err = await asyncio.wait_for(process.communicate(), ENOUGH)
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), err.decode()


def address(server: Server | asyncio.Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]
    return f"{host}:{port}"


@asynccontextmanager
async def answering(*statuses: str, body: str = "") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers its requests with these statuses, and each further one with the last.

    Yields its address, and the requests that it has received.
    """
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        status = statuses[min(len(requests), len(statuses)) - 1]
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(f"{head}{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield address(server), requests


async def test_it_resumes_after_the_last_id_and_tells_of_a_gap() -> None:
    paths: list[str] = []

    async def answer(client: ServerConnection) -> None:
        assert client.request is not None
        paths.append(client.request.path)
        if len(paths) == 1:
            await client.send('{"message_type":"heartbeat","timestamp":1}')
            await client.send(names(1))
            await client.send(names(2))
            client.transport.abort()
        else:
            await client.send('{"message_type":"gap","data":{"reason":"no longer retained"}}')
            await client.send(names(3))
            await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", "--limit=3") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (0, ["1.example", "2.example", "3.example"])
    assert paths == ["/domains-only", "/domains-only?cursor=2-0-0"]
    assert "; retrying" in err
    assert 'missed messages: {"reason":"no longer retained"}' in err
    assert err.splitlines()[-1].startswith("tail: 3 certificates in ")
    assert err.endswith(", 1 gap\n")


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_connection_that_ends_before_the_first_id_is_a_gap(scheme: str) -> None:
    """Nothing states where the next one should resume. One that was refused misses nothing."""
    requests = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if requests == 1:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        elif scheme == "ws":
            key = re.search(r"(?i)sec-websocket-key: (\S+)", head)
            assert key is not None
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + f"Sec-WebSocket-Accept: {accept_key(key[1])}\r\n\r\n".encode()
            )
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n")
        if requests == 3:
            text = names(1).encode()
            frame = b"\x81" + bytes([len(text)]) + text
            writer.write(frame if scheme == "ws" else b"id: 1-0-0\ndata: %b\n\n" % text)
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        tailing(f"{scheme}://{address(server)}", "--limit=1") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out, requests) == (0, ["1.example"], 3)
    assert err.count("missed messages: the connection ended before the first id") == 1
    assert err.endswith(", 1 gap\n")


@pytest.mark.parametrize("scheme", ["ws", "http"])
@pytest.mark.parametrize("status", ["503 Service Unavailable", "403 Forbidden"])
async def test_no_error_shows_the_secrets_of_the_url(scheme: str, status: str) -> None:
    async with (
        answering(status, "403 Forbidden") as (place, _),
        tailing(f"{scheme}://user:password@{place}/?token=sesame") as process,
    ):
        code, _, err = await finish(process)
    assert code == 1
    assert status[:3] in err
    assert f"{scheme}://{place}/" in err
    assert not {secret for secret in ("user", "password", "sesame") if secret in err}


async def test_sse_resumes_too_and_keeps_a_path_of_its_own() -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n:\n\n")
        number = len(requests)
        writer.write(f"id: {number}-0-0\ndata: {names(number)}\n\n".encode())
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        tailing(
            f"http://{address(server)}/certs/sse?stream=domains", "--limit=2", "--cursor=0-5-1"
        ) as process,
    ):
        code, out, _ = await finish(process)
    assert (code, out) == (0, ["1.example", "2.example"])
    assert requests == [
        b"/certs/sse?stream=domains&cursor=0-5-1",
        b"/certs/sse?stream=domains&cursor=1-0-0",
    ]


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_server_without_the_stream_gets_no_second_request(scheme: str) -> None:
    async with (
        answering("404 Not Found") as (place, requests),
        tailing(f"{scheme}://{place}") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out, len(requests)) == (1, [], 1)
    assert "answers 404: Not Found" in err


@pytest.mark.parametrize(
    "nonsense", ["hello", "[1]", '{"message_type":"dns_entries","data":[1]}', "{}"]
)
async def test_nonsense_is_told_plainly(nonsense: str) -> None:
    async def answer(client: ServerConnection) -> None:
        await client.send(nonsense)
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (1, [])
    assert "not a certstream server" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
async def test_lines_of_events_end_with_cr_and_lf_alone(end: str) -> None:
    odd = "a\x85b\u2028c\u2029d\x0be\x0cf\x1cg"
    data = json.dumps([odd, "after.example"], ensure_ascii=False)
    message = f'{{"message_type":"dns_entries","id":"1-0-0","data":{data}}}'
    first, second = message.split(',"data"')
    events = [f": comment{end}{end}", f"id: 1-0-0{end}data: {first}{end}"]
    events.append(f'data: ,"data"{second}{end}{end}')

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for byte in "".join(events).encode():  # one at a time: also CR and LF
            writer.write(bytes([byte]))
            await writer.drain()
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        tailing(f"http://{address(server)}", "--json", "--limit=1") as process,
    ):
        out, err = await asyncio.wait_for(process.communicate(), ENOUGH)
    assert process.returncode == 0, err
    assert json.loads(out)["data"] == [odd, "after.example"]


async def test_it_ends_at_its_limit_while_the_server_goes_on_sending() -> None:
    """Not after ten seconds, in which the answer to its close waits behind messages."""

    async def answer(client: ServerConnection) -> None:
        for number in itertools.count():
            await client.send(names(number))

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", "--limit=4") as process,
    ):
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(4)]
        printed = time.monotonic()
        code, _, err = await finish(process)
        ended = time.monotonic() - printed
    assert (code, lines[-1]) == (0, b"3.example\n")
    assert ended < CLOSE_SECONDS
    seconds = re.search(r"4 certificates in ([0-9.]+) s", err)
    assert seconds is not None
    assert float(seconds[1]) < CLOSE_SECONDS


async def test_a_name_cannot_command_the_terminal() -> None:
    async def answer(client: ServerConnection) -> None:
        await client.send(
            r'{"message_type":"dns_entries","data":["\u001b[2Ja\nb","b\u00fc.example"]}'
        )
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", "--limit=1") as process,
    ):
        _, out, _ = await finish(process)
    assert out == [r"\x1b[2Ja\nb", "bü.example"]


async def test_what_it_says_of_redis_is_not_among_the_names() -> None:
    async with tailing("--redis=redis://127.0.0.1:1/0") as process:
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), ENOUGH)
        process.send_signal(2)
        code, out, _ = await finish(process)
    assert b"redis read failed" in line
    assert (code, out) == (0, [])


async def test_a_redis_that_wants_a_password_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with running_redis() as server:
        url = server.url
        async with connect(url) as client:
            await client.config_set("requirepass", "sesame")
        for arguments in ((), (f"--redis-password-file={file}",)):
            file.write_text("wrong\n")
            async with tailing(f"--redis={url}", *arguments) as process:
                code, _, err = await finish(process)
            assert code == 1
            assert "redis denies access: " in err
            assert "--redis-password-file" in err
            assert "Traceback" not in err
        file.write_text("sesame\n")
        async with tailing(f"--redis={url}", f"--redis-password-file={file}") as process:
            async with connect(url, password="sesame") as client:

                async def follows() -> bool:
                    found = await client.client_list()
                    return any(each["name"] == "tail" for each in found)

                await until(follows, "it is connected", ENOUGH)
            process.send_signal(2)
            assert (await finish(process))[0] == 0


async def test_ctrl_c_is_a_clean_end() -> None:
    connected = asyncio.Event()

    async def answer(client: ServerConnection) -> None:
        connected.set()
        await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}") as process,
    ):
        await asyncio.wait_for(connected.wait(), ENOUGH)
        process.send_signal(2)
        code, out, err = await finish(process)
    assert (code, out) == (0, [])
    assert err.startswith("tail: 0 certificates in ")
    assert err.endswith("no gaps\n")


def certificate(number: int, *domains: str, not_before: int | None = None) -> str:
    leaf = {
        "all_domains": list(domains),
        "subject": {"CN": domains[0]},
        "issuer": {"O": None, "CN": "Issuing CA"},
        "not_before": not_before,
        "not_after": 1_800_000_000,
        "sha256": "AA:0B",
    }
    data = {"leaf_cert": leaf, "seen": 1_700_000_000.25, "source": {"name": "Log\n1"}}
    return json.dumps({"message_type": "certificate_update", "id": f"{number}-0-0", "data": data})


@asynccontextmanager
async def sending(*messages: str) -> AsyncIterator[tuple[str, list[ServerConnection]]]:
    """Serve these messages to each client; yield the address and the clients."""
    clients: list[ServerConnection] = []

    async def answer(client: ServerConnection) -> None:
        clients.append(client)
        for message in messages:
            await client.send(message)
        await client.wait_closed()

    async with serve(answer, "127.0.0.1", 0) as server:
        yield f"ws://{address(server)}", clients


async def test_only_names_that_match_are_printed() -> None:
    several = '{"message_type":"dns_entries","data":["pay.example","other.x","1.Pay.example"]}'
    none = '{"message_type":"dns_entries","data":["other.example"]}'
    async with (
        sending(none, several, none, several) as (url, _),
        tailing(url, "--match=regex:(^|[.])pay", "--limit=2") as process,
    ):
        code, out, err = await finish(process)
    assert (code, out) == (0, ["pay.example", "1.Pay.example"] * 2)
    assert "tail: 2 of 4 certificates in " in err


async def test_a_server_filters_by_all_lines() -> None:
    """Its messages name what matched; those without a name match as a whole."""
    by_name = '{"message_type":"dns_entries","data":["pay.x","y.z"],"matched":[{"name":"pay.x"}]}'
    whole = '{"message_type":"dns_entries","data":["a.b","c.d"],"matched":[{"name":null}]}'
    newer = '{"message_type":"dns_entries","data":["e.f","g.h"],"matched":[{"name":"g.h"}]}'
    async with (
        sending(by_name, whole, newer) as (url, clients),
        tailing(url, "--match=contains:pay", "--match=domain:x idn:no", "--limit=3") as process,
    ):
        assert (await finish(process))[:2] == (0, ["pay.x", "a.b", "c.d", "g.h"])
    assert [client.request.path for client in clients if client.request] == [
        "/domains-only?match=contains%3Apay&match=domain%3Ax+idn%3Ano"
    ]


async def test_terms_of_the_certificate_need_its_message() -> None:
    """Also for names, and for messages of the domains stream."""
    other = certificate(1, "a.example").replace("Issuing CA", "Other CA")
    async with sending(other, certificate(2, "b.example", "c.example")) as (url, clients):
        match = "--match=issuer:issuing -domain:b.example"
        async with tailing(url, match, "--limit=1") as process:
            assert (await finish(process))[:2] == (0, ["c.example"])
        async with tailing(url, match, "--limit=1", "--json") as process:
            code, out, _ = await finish(process)
    names = ["b.example", "c.example"]
    assert code == 0
    assert json.loads(out[0]) == {"id": "2-0-0", "message_type": "dns_entries", "data": names}
    paths = {client.request.path.partition("?")[0] for client in clients if client.request}
    assert paths == {"/"}


async def test_parameters_of_the_url_stay() -> None:
    async with sending(names(1), names(2)) as (url, clients):
        arguments = (f"{url}/domains-only?match=idn:no&match=idn:yes&cursor=1-0-0", "--since=2-0-0")
        async with tailing(*arguments, "--limit=1") as process:
            assert (await finish(process))[0] == 0
    assert [client.request.path for client in clients if client.request] == [
        "/domains-only?match=idn%3Ano&match=idn%3Ayes&cursor=2-0-0"
    ]


async def test_a_template_says_what_is_printed() -> None:
    form = r"{id}\t{seen} {cn} {domains} {issuer} {not_after} {sha256} {log} {{}}"
    async with (
        sending(certificate(1, "a.example", "b.example"), certificate(2, "c.example")) as server,
        tailing(server[0], f"--format={form}", "--match=domain:b.example", "--limit=1") as process,
    ):
        code, out, _ = await finish(process)
    first = "1-0-0\t2023-11-14T22:13:20Z a.example a.example b.example Issuing CA"
    assert (code, out) == (0, [rf"{first} 2027-01-15T08:00:00Z aa0b Log\n1 {{}}"])
    assert [client.request.path for client in server[1] if client.request] == [
        "/?match=domain%3Ab.example"
    ]


async def test_odd_dates_end_nothing() -> None:
    """Certificates are made by strangers: dates may be missing, or in the year 10,000."""
    odd = [
        certificate(n, "a.example", not_before=date) for n, date in enumerate((None, 253402304399))
    ]
    async with (
        sending(*odd, certificate(2, "a.example", not_before=0)) as (url, _),
        tailing(url, "--format={not_before}.", "--limit=3") as process,
    ):
        code, out, _ = await finish(process)
    assert (code, out) == (0, [".", ".", "1970-01-01T00:00:00Z."])


async def test_json_of_what_matches() -> None:
    wanted = certificate(2, "b.example")
    async with (
        sending(certificate(1, "a.example"), wanted) as (url, _),
        tailing(url, "--lite", "--match=domain:b.example", "--limit=1") as process,
    ):
        assert (await finish(process))[:2] == (0, [wanted])


async def test_version_2_is_printed_as_it_came_or_as_names_and_fields() -> None:
    """A server that does not filter sends it: the match is local."""
    entry = {"type": "precert", "index": 7, "observed_at": "2026-11-30T02:38:42.777Z", "link": "l"}
    leaf = {"all_domains": ["a.example", "b.example"], "subject": {"CN": "a.example"}}
    data = {"source": {"name": "L", "operator": "O"}, "entry": entry, "cert": leaf}
    number = {"id": "1-0-0", "message_type": "certificate_update", "version": 2}
    message = json.dumps({**number, "data": data})
    async with sending(names(0), message) as (url, clients):
        match = ("--match=domain:b.example type:precert operator:o", "--limit=1")
        async with tailing(url, "--v2", *match) as process:
            assert (await finish(process))[:2] == (0, [message])
        async with tailing(f"{url}/v2", *match) as process:
            assert (await finish(process))[:2] == (0, ["b.example"])
        form = "--format={id} {seen} {cn} {type} {index} {link} {log}"
        async with tailing(f"{url}/v2", form, *match) as process:
            code, out, _ = await finish(process)
    fields = "1-0-0 2026-11-30T02:38:42Z a.example PrecertLogEntry 7 l L"
    assert (code, out) == (0, [fields])
    paths = {client.request.path.partition("?")[0] for client in clients if client.request}
    assert paths == {"/v2"}


async def test_since_is_a_time_or_an_id() -> None:
    async with sending(names(1)) as (url, clients):
        for since in ("10m", "5-0-1"):
            async with tailing(url, f"--since={since}", "--limit=1") as process:
                await finish(process)
    paths = [client.request.path for client in clients if client.request]
    assert paths[1] == "/domains-only?cursor=5-0-1"
    began = int(paths[0].removeprefix("/domains-only?cursor="))
    assert 600_000 <= time.time() * 1000 - began < 700_000


async def test_colours_are_for_terminals_and_can_be_switched_off() -> None:
    message = '{"message_type":"dns_entries","data":["pay.example"]}'
    async with sending(message) as (url, _):
        for environment, expected in (
            ({"FORCE_COLOR": "1"}, "\x1b[1;31mpay\x1b[0m.example"),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, "pay.example"),
        ):
            arguments = (url, "--match=contains:pay", "--limit=1")
            async with tailing(*arguments, TERM="xterm", **environment) as process:
                assert (await finish(process))[1] == [expected]


async def test_a_token_is_sent_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("sesame\n")
    async with sending(names(1)) as (url, clients):
        arguments = (f"{url}/?token=seed", f"--token-file={file}", "--limit=1")
        async with tailing(*arguments) as process:
            code, _, err = await finish(process)
    (client,) = clients
    assert client.request is not None
    assert client.request.headers["Authorization"] == "Bearer sesame"
    assert code == 0
    assert not {"sesame", "seed"} & set(err.replace("=", " ").split())


async def test_a_reconnection_sends_the_token_that_the_file_has_then(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    sent: list[str] = []

    async def answer(client: ServerConnection) -> None:
        assert client.request is not None
        sent.append(client.request.headers["Authorization"])
        if len(sent) < 3:  # the file is empty for a moment, then has another token
            file.write_text("" if len(sent) == 1 else "new\n")
            client.transport.abort()
        else:
            await client.send(names(1))
            await client.wait_closed()

    async with (
        serve(answer, "127.0.0.1", 0) as server,
        tailing(f"ws://{address(server)}", f"--token-file={file}", "--limit=1") as process,
    ):
        code, _, _ = await finish(process)
    assert (code, sent) == (0, ["Bearer old", "Bearer old", "Bearer new"])


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_token_is_sent_in_utf_8(tmp_path: Path, scheme: str) -> None:
    file = tmp_path / "token"
    file.write_text("sésame\n", "utf-8")
    body = '{"error":"Unknown token","code":"unknown_token"}'
    async with (
        answering("401 Unauthorized", body=body) as (place, requests),
        tailing(f"{scheme}://{place}", f"--token-file={file}") as process,
    ):
        code, _, err = await finish(process)
    assert code == 1
    assert "answers 401: Unknown token (--token-file FILE sends" in err
    assert b"authorization: bearer s\xc3\xa9same\r\n" in requests[0].lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "soon"], "invalid --since 'soon': expected a duration (90s"),
        (
            ["--match", "paypal"],
            "contains:paypal?; a regular expression is regex:paypal",
        ),
        (["--match", "brand:pay"], "unknown key 'brand'"),
        (["--match=-domain:a.example"], "a line needs a term that is not negated"),
        (["--cursor-file", "empty"], "cursor file empty: '' is not a cursor"),
        (["--cursor-file", "."], "cursor file .: Is a directory"),
        (["--v2", "--redis", "redis://h"], "--v2 requires a server"),
        (["--token-file", "empty"], "empty must have one token, on one line"),
        (["--token-file", "two"], "two must have one token, on one line"),
        (["--token-file", "binary"], "binary is not text in UTF-8"),
    ],
)
async def test_an_invalid_option_is_an_error(
    tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("empty", b"\n"), ("two", b"a\nb"), ("binary", b"\xff")):
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    async with tailing(*arguments) as process:
        code, _, err = await finish(process)
    assert code == (1 if "--cursor-file" in arguments else 2)
    assert message in " ".join(err.split())


async def test_for_ever_ago_is_the_beginning() -> None:
    async with (
        sending(names(1)) as (url, clients),
        tailing(url, f"--since={'9' * 400}d", "--limit=1") as process,
    ):
        code, _, err = await finish(process)
    assert code == 0, err
    assert [client.request.path for client in clients if client.request] == [
        "/domains-only?cursor=0"
    ]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def test_redis_goes_on_behind_a_message(redis: RedisServer) -> None:
    async with Press(redis.url, "certstream:") as press:
        first = await press.print(3)
        await press.print(2)
    arguments = (f"--redis={redis.url}", "--format=id serial {serial}")
    for since, serials, gaps in (
        (f"{first}-1", [2, 3, 4], "no gaps"),
        ("1-0-0", [0, 1, 2, 3, 4], "1 gap"),
        ("1h", [0, 1, 2, 3, 4], "1 gap"),  # this Redis has nothing from before its first batch
    ):
        limit = f"--limit={len(serials)}"
        async with tailing(*arguments, f"--since={since}", limit) as process:
            code, out, err = await finish(process)
        assert (code, out) == (0, [f"id serial {serial}" for serial in serials]), err
        assert err.endswith(f"{gaps}\n")
