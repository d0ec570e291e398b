"""A served world, and a client that reads its logs as an ingestor would."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import yaml

from ctparse import merkle, rfc6962, signatures, static_ct
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from simlog.api import request_stats
from simlog.api.request_stats import RequestCounts
from simlog.app import serve
from simlog.fault_types import AnyFault
from simlog.oracle import ground_truth
from simlog.oracle.ground_truth import TruthEntry
from simlog.spec import Spec


class Served:
    """One world, read over HTTP."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def get(self, path: str) -> bytes:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.content

    async def set(self, log: str, *faults: AnyFault) -> None:
        body = msgspec.json.encode(faults)
        answer = await self.http.put(f"/control/{log}/faults", content=body)
        assert answer.status_code == 200, answer.text

    async def head(self, log: str) -> TreeHead:
        """The tree head that a log shows; not verified."""
        if log.startswith("rfc"):
            return rfc6962.decode_sth(await self.get(f"/{log}/ct/v1/get-sth"))
        checkpoint = static_ct.parse_checkpoint(await self.get(f"/{log}/checkpoint"))
        return static_ct.tree_head(checkpoint, (await self.key(log)).id, checkpoint.origin)

    async def verified_head(self, log: str) -> TreeHead:
        head = await self.head(log)
        signatures.verify_tree_head(await self.key(log), head)
        return head

    async def key(self, log: str) -> signatures.LogKey:
        config = yaml.safe_load(await self.get("/config.yaml"))
        keys = {each["name"]: each["key"] for each in config["custom_logs"] + config["static_logs"]}
        return signatures.load_log_key(b64decode(keys[log]))

    async def entries(self, log: str, size: int) -> list[Entry | Rejected]:
        """The first `size` entries."""
        entries: list[Entry | Rejected] = []
        while (first := len(entries)) < size:
            if log.startswith("rfc"):
                path = f"/{log}/ct/v1/get-entries?start={first}&end={size - 1}"
                entries += rfc6962.decode_entries(await self.get(path), first)
            else:
                width = min(256, size - first)
                path = f"/{log}/{static_ct.tile_path('data', first // 256, width)}"
                entries += static_ct.decode_tile(await self.get(path), first)
        return entries

    async def consistency(self, log: str, first: int, second: int) -> list[bytes]:
        path = f"/{log}/ct/v1/get-sth-consistency?first={first}&second={second}"
        proof = msgspec.json.decode(await self.get(path))["consistency"]
        return [b64decode(node) for node in proof]

    async def inclusion(self, log: str, leaf: bytes, size: int) -> list[bytes]:
        query = httpx.QueryParams(hash=b64encode(leaf).decode(), tree_size=size)
        answer = msgspec.json.decode(await self.get(f"/{log}/ct/v1/get-proof-by-hash?{query}"))
        return [b64decode(node) for node in answer["audit_path"]]

    async def record(self) -> list[TruthEntry]:
        return ground_truth.read_jsonl(await self.get("/record"))

    async def uncommitted(self, log: str) -> dict[int, TruthEntry]:
        """What a log showed and never committed to, by index."""
        return {
            each.index: each
            for each in await self.record()
            if each.misbehaviour and each.log == log
        }

    async def traffic(self) -> RequestCounts:
        return request_stats.read(await self.get("/requests"))


@asynccontextmanager
async def served(spec: Spec) -> AsyncIterator[Served]:
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(spec, "127.0.0.1", 0, stop, ready=url.set_result))
        async with httpx.AsyncClient(base_url=await url, trust_env=False) as http:
            try:
                yield Served(http)
            finally:
                stop.set()


def leaf_hash(entry: Entry | Rejected) -> bytes:
    assert isinstance(entry, Entry), entry
    return merkle.leaf_hash(entry.leaf)


def root(entries: list[Entry | Rejected]) -> bytes:
    """Of the tree over these entries, computed independently of simlog."""
    frontier = Frontier()
    for entry in entries:
        frontier.append(leaf_hash(entry))
    return frontier.root()
