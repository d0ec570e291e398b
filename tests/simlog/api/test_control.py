"""Faults by the control endpoint, by the specification and by the command line."""

import argparse
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from certhttp.protocol import Request
from ctparse.signatures import BadSignature, verify_log_list
from simlog import fault_types
from simlog.api import control
from simlog.cli import add_arguments, spec_from_args
from simlog.faults.active import ActiveFaults
from simlog.http_server import Refused
from simlog.spec import LogSpec, Spec
from tests.simlog.world_over_http import Served, served
from tests.simlog.worlds import small

ALL = ("rfc1", "rfc2", "static1", "static2")


@pytest.fixture
async def world() -> AsyncIterator[Served]:
    async with served(small(preload=20)) as opened:
        yield opened


def spec(*arguments: str) -> Spec:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return spec_from_args(parser.parse_args(arguments))


async def test_faults_are_put_added_shown_and_cleared(world: Served) -> None:
    at = "/control/rfc1/faults"
    latency = {"kind": "latency", "seconds": 0.01}
    reset = {"kind": "reset", "share": 0.5, "only": "entries"}
    assert (await world.http.get(at)).json() == {"rfc1": []}
    assert (await world.http.put(at, json=latency)).json() == {"rfc1": [latency]}
    assert (await world.http.post(at, json=[reset])).json() == {"rfc1": [latency, reset]}
    assert (await world.http.get("/control")).json() == {
        "rfc1": [latency, reset], "rfc2": [], "static1": [], "static2": []
    }  # fmt: skip
    assert (await world.http.put(at, json=[reset])).json() == {"rfc1": [reset]}
    assert (await world.http.delete(at)).json() == {"rfc1": []}
    assert (await world.http.get("/rfc1/ct/v1/get-sth")).status_code == 200


async def test_a_pattern_names_several_logs(world: Served) -> None:
    answer = await world.http.put("/control/rfc*/faults", json={"kind": "wrong_root"})
    assert set(answer.json()) == {"rfc1", "rfc2"}
    await world.http.delete("/control/*/faults")
    assert (await world.http.get("/control")).json() == {log: [] for log in ALL}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text_part"),
    [
        (
            "PUT",
            "/control/rfc9/faults",
            "[]",
            404,
            "no log named 'rfc9'; logs: rfc1, rfc2",
        ),
        ("GET", "/control/rfc1", "", 404, "Faults are at /control/<log>/faults"),
        ("PUT", "/control", "[]", 404, "Faults are at /control/<log>/faults"),
        ("PATCH", "/control/rfc1/faults", "[]", 405, "use GET, PUT, POST or DELETE"),
        ("PUT", "/control/rfc1/faults", "{", 400, "invalid faults: "),
        ("PUT", "/control/rfc1/faults", '{"kind": "x"}', 400, "Invalid value 'x'"),
        ("PUT", "/control/rfc1/faults", '{"kind": "malformed"}', 400, "Invalid value 'malformed'"),
        ("PUT", "/control/rfc1/faults", '[{"kind":"reset","share":2}]', 400, "$[0].share"),
        ("PUT", "/control/rfc1/faults", '{"kind":"reset","shar":1}', 400, "unknown field `shar`"),
        ("PUT", "/control/rfc1/faults", '{"kind":"status","code":200}', 400, ">= 400"),
    ],
)
async def test_an_invalid_request_is_rejected_and_changes_nothing(
    world: Served, method: str, path: str, body: str, status: int, text_part: str
) -> None:
    await world.set("rfc1", fault_types.Fewer())
    answer = await world.http.request(method, path, content=body)
    assert answer.status_code == status
    assert text_part in answer.text
    assert (await world.http.get("/control")).json()["rfc1"] == [{"kind": "fewer"}]


async def test_a_body_that_is_too_large_ends_only_its_connection(world: Served) -> None:
    with pytest.raises(httpx.TransportError):
        await world.http.put("/control/rfc1/faults", content=b" " * 1_000_000)
    assert (await world.http.get("/control")).status_code == 200


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", "0.0.0.0"])
def test_only_this_machine_may_switch_faults(peer: str) -> None:
    request = Request("GET", "/control", {}, peer=peer)
    switches = ActiveFaults(small())
    with pytest.raises(Refused, match=f"not {peer}") as refused:
        control.respond(switches, ALL, {}, request)
    assert refused.value.response.status == 403
    for own in ("127.0.0.1", "::1", "127.8.8.8"):
        request = msgspec.structs.replace(request, peer=own)
        assert control.respond(switches, ALL, {}, request).status == 200


async def test_faults_of_the_specification_are_on_from_the_start() -> None:
    wrong = (fault_types.Status(code=404, only="proofs"), fault_types.Latency(seconds=0.01))
    async with served(small(logs=(LogSpec("rfc1", "rfc6962", "Operator", wrong),))) as world:
        assert (await world.http.get("/rfc1/ct/v1/get-sth-consistency")).status_code == 404
        faults = msgspec.json.decode(await world.get("/world.json"))["spec"]["logs"][0]["faults"]
    assert msgspec.convert(faults, tuple[fault_types.AnyFault, ...]) == wrong


def test_faults_on_the_command_line() -> None:
    world = spec("--fault=rfc*:latency:seconds=2,jitter=0.5", "--fault=rfc2:fork", "--mmd=5")
    latency = fault_types.Latency(seconds=2, jitter=0.5)
    assert [log.faults for log in world.logs] == [(latency,), (latency, fault_types.Fork()), (), ()]
    assert world.mmd == 5
    status = fault_types.Status(code=429, retry_after=3, since=5, until=9.5, only="head")
    text = "--fault=static1:status:code=429,retry_after=3,since=5,until=9.5,only=head"
    assert spec(text).logs[2].faults == (status,)


def test_troubles_in_turn_on_the_command_line() -> None:
    logs = spec("--rfc6962=3", "--static-ct=3", "--troubles=10").logs
    assert [log.faults for log in logs] == [fault_types.in_turn(n, 10) for n in range(6)]
    assert all(log.faults for log in logs)


@pytest.mark.parametrize(
    ("text", "text_part"),
    [
        ("rfc1", "fault 'rfc1': Invalid value ''"),
        ("rfc1:nonsense", "Invalid value 'nonsense'"),
        ("rfc1:reset:share=x", "Expected `float`, got `str` - at `$.share`"),
        ("rfc1:reset:share=2", "Expected `float` <= 1.0"),
        ("rfc1:reset:whence=2", "unknown field `whence`"),
        ("rfc7:reset", "no log named this; logs: rfc1, rfc2, static1, static2"),
    ],
)
def test_an_invalid_fault_is_an_error(text: str, text_part: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the text is compared)
        spec("--fault", text)
    assert text_part in str(error.value)


def test_help_shows_how_every_fault_is_written() -> None:
    command = [sys.executable, "-m", "simlog", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in fault_types.described():
        written = line.splitlines()[0]
        assert written in output
        pairs = [pair for pair in written.split(":", 1)[1:] if pair]
        filled = ",".join(pair for each in pairs for pair in each.split(",") if pair[-1] != "=")
        _, fault = fault_types.parse(f"x:{written.partition(':')[0]}:{filled}")
        assert fault == type(fault)()


async def test_the_edition_of_a_log_list(world: Served) -> None:
    at = "/control/lists/log_list"
    before = await world.http.get("/log_list.json")
    same = await world.http.get("/log_list.json", headers={"if-none-match": before.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    edition = {"number": 7, "states": {"rfc1": "retired"}, "left_out": ["static1"], "unreadable": 1}
    assert (await world.http.put(at, json=edition)).status_code == 200
    after = (await world.http.get("/log_list.json")).json()
    assert after["version"] == "1.7"
    assert after["log_list_timestamp"] > before.json()["log_list_timestamp"]
    entries = [
        log for operator in after["operators"] for log in operator["logs"] + operator["tiled_logs"]
    ]
    states = {log["description"]: list(log.get("state", ())) for log in entries}
    assert states == {"rfc1": ["retired"], "rfc2": ["usable"], "static2": ["usable"], "no log": []}
    signature = await world.get("/log_list.sig")
    key = await world.get("/log_list_pubkey.pem")
    verify_log_list((await world.http.get("/log_list.json")).content, signature, key)
    assert (await world.http.get("/unsigned_list.json")).json()["version"] == "0"


@pytest.mark.parametrize(
    ("lie", "status"), [("forged", 200), ("changed", 200), ("unsigned", 404), ("unavailable", 404)]
)
async def test_a_log_list_with_a_fault(world: Served, lie: str, status: int) -> None:
    await world.http.put("/control/lists/log_list", json={"lie": lie})
    body, signature = [await world.http.get(f"/log_list.{kind}") for kind in ("json", "sig")]
    assert signature.status_code == status
    key = await world.get("/log_list_pubkey.pem")
    with pytest.raises(BadSignature):
        verify_log_list(body.content, signature.content, key)


@pytest.mark.parametrize("body", ["{", '{"lie": "white"}', '{"nubmer": 1}', '{"number": -1}'])
async def test_an_invalid_edition_is_rejected(world: Served, body: str) -> None:
    answer = await world.http.put("/control/lists/log_list", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith("invalid edition: ")
    assert (await world.http.get("/log_list.json")).json()["version"] == "1.0"
