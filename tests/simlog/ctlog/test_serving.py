"""The logs over HTTP, read with the clients' own decoders."""

import asyncio
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from ctparse import merkle, rfc6962, signatures, static_ct
from ctparse.entry import Entry
from ctparse.merkle import Frontier
from simlog.app import serve
from simlog.oracle import ground_truth
from simlog.spec import Spec
from tests.simlog.worlds import small


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a small world that is complete."""
    async for opened in opened_world(small(max_entries=100)):
        yield opened


async def opened_world(spec: Spec) -> AsyncIterator[httpx.AsyncClient]:
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(spec, "127.0.0.1", 0, stop, ready=url.set_result))
        async with httpx.AsyncClient(base_url=await url) as opened:
            yield opened
            stop.set()


async def get(client: httpx.AsyncClient, url: str) -> bytes:
    answer = await client.get(url)
    assert answer.status_code == 200, answer.text
    return answer.content


async def rfc6962_entries(client: httpx.AsyncClient, name: str, size: int) -> list[Entry]:
    entries: list[Entry] = []
    while len(entries) < size:
        first = len(entries)
        url = f"/{name}/ct/v1/get-entries?start={first}&end={size - 1}"
        for entry in rfc6962.decode_entries(await get(client, url), first):
            assert isinstance(entry, Entry), entry
            entries.append(entry)
    return entries


async def static_entries(client: httpx.AsyncClient, name: str, size: int) -> list[Entry]:
    entries: list[Entry] = []
    while len(entries) < size:
        first = len(entries)
        path = static_ct.tile_path("data", first // 256, min(256, size - first))
        for entry in static_ct.decode_tile(await get(client, f"/{name}/{path}"), first):
            assert isinstance(entry, Entry), entry
            entries.append(entry)
    return entries


def root(entries: list[Entry]) -> bytes:
    frontier = Frontier()
    for entry in entries:
        frontier.append(merkle.leaf_hash(entry.leaf))
    return frontier.root()


def certificates(entries: list[Entry]) -> list[tuple[int, str, bool, int]]:
    return [
        (entry.index, sha256(entry.certificate).hexdigest(), entry.is_precert, entry.timestamp)
        for entry in entries
    ]


async def key_of(client: httpx.AsyncClient, name: str) -> signatures.LogKey:
    config = yaml.safe_load(await get(client, "/config.yaml"))
    keys = {log["name"]: log["key"] for log in config["custom_logs"] + config["static_logs"]}
    return signatures.load_log_key(b64decode(keys[name]))


async def recorded(client: httpx.AsyncClient, name: str) -> list[tuple[int, str, bool, int]]:
    entries = ground_truth.read_jsonl(await get(client, "/record"))
    return [(e.index, e.sha256, e.is_precert, e.timestamp) for e in entries if e.log == name]


async def test_an_rfc6962_log_serves_what_its_tree_head_signs(client: httpx.AsyncClient) -> None:
    head = rfc6962.decode_sth(await get(client, "/rfc1/ct/v1/get-sth"))
    signatures.verify_tree_head(await key_of(client, "rfc1"), head)
    entries = await rfc6962_entries(client, "rfc1", head.size)
    assert root(entries) == head.root
    assert certificates(entries) == await recorded(client, "rfc1")
    kinds = Counter(entry.is_precert for entry in entries)
    assert kinds[True] > 50
    assert kinds[False] > 50
    assert {len(rfc6962.chain_certificates(entry.chain)) for entry in entries} == {2}


async def test_a_static_log_serves_what_its_checkpoint_signs(client: httpx.AsyncClient) -> None:
    checkpoint = static_ct.parse_checkpoint(await get(client, "/static1/checkpoint"))
    key = await key_of(client, "static1")
    head = static_ct.tree_head(checkpoint, key.id, checkpoint.origin)
    signatures.verify_tree_head(key, head)
    assert len(checkpoint.signatures) == 4
    assert [name for name, *_ in checkpoint.signatures].count(checkpoint.origin) == 2
    entries = await static_entries(client, "static1", head.size)
    assert root(entries) == head.root
    assert certificates(entries) == await recorded(client, "static1")
    tile = await get(client, f"/static1/{static_ct.tile_path(0, 0)}")
    assert tile == b"".join(merkle.leaf_hash(entry.leaf) for entry in entries[:256])
    fingerprints = {fp for entry in entries for fp in static_ct.fingerprints(entry.chain)}
    for fingerprint in fingerprints:
        issuer = await get(client, f"/static1/issuer/{fingerprint.hex()}")
        assert sha256(issuer).digest() == fingerprint


async def test_data_tiles_are_compressed_whether_requested_or_not(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/static1/tile/data/000", headers={"accept-encoding": "identity"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]


async def test_proofs_lead_to_the_root(client: httpx.AsyncClient) -> None:
    head = rfc6962.decode_sth(await get(client, "/rfc2/ct/v1/get-sth"))
    leaf = merkle.leaf_hash((await rfc6962_entries(client, "rfc2", 43))[42].leaf)
    hashed = (
        await client.get(
            "/rfc2/ct/v1/get-proof-by-hash",
            params={"hash": b64encode(leaf).decode(), "tree_size": head.size},
        )
    ).json()
    assert hashed["leaf_index"] == 42
    proof = [b64decode(node) for node in hashed["audit_path"]]
    merkle.verify_inclusion(42, head.size, leaf, proof, head.root)
    whole = (
        await client.get(f"/rfc2/ct/v1/get-entry-and-proof?leaf_index=42&tree_size={head.size}")
    ).json()
    assert whole["audit_path"] == hashed["audit_path"]
    assert merkle.leaf_hash(b64decode(whole["leaf_input"])) == leaf
    entries = await rfc6962_entries(client, "rfc2", 100)
    answer = await client.get(f"/rfc2/ct/v1/get-sth-consistency?first=100&second={head.size}")
    consistency = [b64decode(node) for node in answer.json()["consistency"]]
    merkle.verify_consistency(100, head.size, root(entries[:100]), head.root, consistency)


async def test_get_entries_answers_as_real_logs_do(client: httpx.AsyncClient) -> None:
    size = rfc6962.decode_sth(await get(client, "/rfc1/ct/v1/get-sth")).size
    lengths = {}
    for start, end in ((0, 1000), (5, 5), (size - 3, size + 50)):
        body = await get(client, f"/rfc1/ct/v1/get-entries?start={start}&end={end}")
        lengths[start] = len(rfc6962.decode_entries(body, start))
    assert lengths == {0: 100, 5: 1, size - 3: 3}


@pytest.mark.parametrize(
    ("path", "status", "text_part"),
    [
        ("/rfc1/ct/v1/get-entries?start=5&end=4", 400, "start <= end"),
        ("/rfc1/ct/v1/get-entries?start=99999&end=99999", 400, "tree size"),
        ("/rfc1/ct/v1/get-entries?start=-1&end=4", 400, "start: not a decimal number: '-1'"),
        ("/rfc1/ct/v1/get-entries", 400, "start: not a decimal number"),
        ("/rfc1/ct/v1/get-sth-consistency?first=9&second=8", 400, "first <= second"),
        ("/rfc1/ct/v1/get-sth-consistency?first=1&second=99999", 400, "tree size"),
        ("/rfc1/ct/v1/get-proof-by-hash?hash=xyz&tree_size=5", 400, "hash: not base64"),
        (f"/rfc1/ct/v1/get-proof-by-hash?hash={'A' * 43}%3D&tree_size=5", 404, "no leaf"),
        ("/rfc1/ct/v1/get-entry-and-proof?leaf_index=5&tree_size=5", 400, "leaf_index"),
        ("/rfc1/ct/v1/get-entry-and-proof?leaf_index=5&tree_size=0", 400, "tree_size"),
        ("/rfc1/ct/v1/add-chain", 404, "no /ct/v1/add-chain"),
        ("/static1/tile/data/009", 404, "too small"),
        ("/static1/tile/data/000.p/256", 404, "static-ct log"),
        ("/static1/tile/0/0", 404, "static-ct log"),
        ("/static1/tile/0/x000/000", 404, "static-ct log"),
        ("/static1/tile/3/000", 404, "too small"),
        (f"/static1/issuer/{'0' * 64}", 404, "static-ct log"),
        ("/nowhere/checkpoint", 404, "Not found: /nowhere/checkpoint"),
    ],
)
async def test_errors_name_the_problem(
    client: httpx.AsyncClient, path: str, status: int, text_part: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == status
    assert text_part in answer.text


async def test_nothing_can_be_posted(client: httpx.AsyncClient) -> None:
    answer = await client.post("/rfc1/ct/v1/add-chain", json={"chain": []})
    assert answer.status_code == 405


async def test_the_log_list_is_signed_and_leads_to_the_logs(client: httpx.AsyncClient) -> None:
    body = await get(client, "/log_list.json")
    signature = await get(client, "/log_list.sig")
    pem = await get(client, "/log_list_pubkey.pem")
    signatures.verify_log_list(body, signature, pem)
    with pytest.raises(signatures.BadSignature):
        signatures.verify_log_list(body.replace(b"rfc1", b"rfc9"), signature, pem)
    operators = (await client.get("/log_list.json")).json()["operators"]
    assert len(operators) == 3
    for operator in operators:
        for log in operator["logs"]:
            await get(client, f"{urlsplit(log['url']).path}ct/v1/get-sth")
        for log in operator["tiled_logs"]:
            path = urlsplit(log["monitoring_url"]).path
            checkpoint = static_ct.parse_checkpoint(await get(client, f"{path}checkpoint"))
            assert log["submission_url"] == f"https://{checkpoint.origin}/"
            assert signatures.log_id(b64decode(log["key"])) == b64decode(log["log_id"])


async def test_a_live_world_grows_and_ends() -> None:
    start = time.time() + 3  # after the first request, also on a busy machine
    spec = small(start=start, rate=2000.0, preload=10, total=400, interval=0.02)
    sizes = []
    async for client in opened_world(spec):
        complete = False
        while not complete:
            status = (await client.get("/world.json")).json()
            complete = status["complete"]
            sizes.append(sum(log["size"] for log in status["logs"]))
        entries = ground_truth.read_jsonl(await get(client, "/record"))
        overview = (await client.get("/")).text
    assert len({entry.sha256 for entry in entries}) == 400
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == len(entries)
    assert "/static2/" in overview


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"\x16\x03\x01\x02\0", b""),
        (b"GET\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: " + b"x" * 200_000, b""),
        (b"GET //[?a=%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"HTTP/1.1 404"),
    ],
)
async def test_invalid_http_ends_only_its_connection(
    client: httpx.AsyncClient, sent: bytes, answered: bytes
) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    received = b""
    with suppress(ConnectionResetError):
        received = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert received[: len(answered) or None] == answered
    assert (await client.get("/")).status_code == 200


async def test_stopping_ends_open_connections() -> None:
    async for client in opened_world(small()):
        assert (await client.get("/")).status_code == 200
        host, port = client.base_url.host, client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
