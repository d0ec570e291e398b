"""The access log: one line for each request and each stream, when it ends."""

import json
from typing import Any

import structlog

from ctfilter import parse_filter
from gateway.config import Settings
from tests.gateway.admission.gateways import ask, request
from tests.gateway.client_helpers import Raw, certificates, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

BY_PROXY = "203.0.113.9, 127.0.0.1"


async def test_each_request_and_stream_has_one_line(start: Start, press: Press) -> None:
    """Live, resumed from Redis, over SSE, rejected, malformed, and closed by the server."""
    gateway = await start(
        Settings(stop_timeout=1.0, access_log=True),
        trusted_proxies=["127.0.0.1"],
        **{
            "auth.enabled": True,
            "auth.query_token": True,
            "auth.holders": [{"name": "soc", "token": "sesame"}],
        },
    )
    await gateway.following()
    with structlog.testing.capture_logs() as events:

        async def logged(count: int) -> list[dict[str, Any]]:
            def found() -> list[dict[str, Any]]:
                return [dict(event) for event in events if event["event"] == "request ended"]

            await until(lambda: len(found()) >= count)
            return found()

        async with websocket(f"{gateway.ws}/full-stream?token=sesame") as client:
            await press.print(5)
            first = await certificates(client, 5)
            await press.print(5)
            await certificates(client, 5)
            await client.close(4001, "enough")
        (live,) = await logged(1)
        assert (live["path"], live["stream"], live["token"]) == ("/full-stream", "full", "soc")
        assert (live["status"], live["messages"], live["cursor"]) == (101, 10, None)
        assert (live["code"], live["reason"]) == (4001, "enough")
        assert 0 <= live["duration_secs"] < 60
        assert live["sent_bytes"] > sum(len(json.dumps(message)) for message in first)

        async with await Raw.open(gateway.port) as client_:
            path = f"/sse?token=sesame&cursor={first[1]['id']}"
            client_.send(request(path, X_Forwarded_For=BY_PROXY))
            await client_.head()
            seen = sum([len(await client_.reader.readuntil(b"\n\n")) for _ in range(8)])
        events_line = (await logged(2))[1]
        assert (events_line["address"], events_line["path"]) == ("203.0.113.9", "/sse")
        assert (events_line["messages"], events_line["cursor"]) == (8, first[1]["id"])
        assert (events_line["status"], events_line["code"]) == (200, 1006)
        assert events_line["sent_bytes"] >= seen

        await ask(gateway.port, "/?token=wrong", X_Forwarded_For=BY_PROXY)
        await ask(gateway.port, "/sse?token=sesame&cursor=sesame")
        async with await Raw.open(gateway.port) as client_:
            client_.send(b"GET /sesame")
            client_.send(b"\x00 HTTP/1.1\r\n\r\n")
            await client_.answer()
        *_, denied, invalid, malformed = await logged(5)
        assert (denied["status"], denied["address"], denied["token"]) == (401, "203.0.113.9", None)
        assert (invalid["status"], invalid["token"], invalid["cursor"]) == (400, "soc", None)
        assert (malformed["status"], malformed["method"], malformed["path"]) == (400, None, None)
        assert "messages" in denied
        assert denied["messages"] is None

        async with websocket(f"{gateway.ws}/?token=sesame") as client:
            gateway.stop.set()
            assert (await logged(6))[5]["code"] == 1012
        assert "sesame" not in repr(events)


async def test_a_filter_shows_as_its_name_and_a_hash(start: Start) -> None:
    brand = parse_filter(match=["contains:acme"])
    assert brand is not None
    gateway = await start(Settings(stop_timeout=1.0, access_log=True, filters={"brand": brand}))
    await gateway.following()
    found: list[str | None] = []
    for query in (
        "",
        "?filter=brand",
        "?match=contains:bbb%20-domain:x.example",
        "?match=-domain:X.example%20contains:bbb",
    ):
        with structlog.testing.capture_logs() as events:
            async with websocket(f"{gateway.ws}/{query}"):
                pass
            await until(lambda: any(event["event"] == "request ended" for event in events))
        found += [event["filter"] for event in events if event["event"] == "request ended"]
    assert found[:2] == [None, "brand"]
    assert found[2] is not None
    assert len(found[2]) == 16
    assert found[2] == found[3], "equal filters have one hash"


async def test_without_the_setting_there_is_no_line(start: Start) -> None:
    gateway = await start()
    with structlog.testing.capture_logs() as events:
        assert (await ask(gateway.port))[0] == 200
    assert not [event for event in events if event["event"] == "request ended"]
