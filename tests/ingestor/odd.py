"""Logs with one oddity each, served by the test itself: small, and with trees that they sign."""

import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from ctparse.signatures import note_key_hash
from simlog.ctlog.log import LogKey, opaque
from simlog.ctlog.tree import TILE, Tree, leaf_hash
from tests.ctparse.derbuild import certificate, common_name, dns, subject_alt_name
from tests.ingestor.hostile import Answer, HostileServer, hostile_server

NOT_FOUND = Answer(b"not found", "404 Not Found")
ISSUER = certificate(subject=common_name("Example CA"))


class OddEntry(msgspec.Struct, frozen=True):
    """One X.509 entry.

    Attributes:
        certificate: its DER.
        chain: DER of its issuers.
        extensions: contents of CtExtensions.
    """

    certificate: bytes
    chain: tuple[bytes, ...] = (ISSUER,)
    extensions: bytes = b""

    @property
    def timestamped(self) -> bytes:
        return bytes(8) + b"\0\0" + opaque(3, self.certificate) + opaque(2, self.extensions)

    @property
    def leaf(self) -> bytes:
        return b"\0\0" + self.timestamped

    @property
    def extra_data(self) -> bytes:
        return opaque(3, b"".join(opaque(3, issuer) for issuer in self.chain))

    @property
    def tile_leaf(self) -> bytes:
        fingerprints = b"".join(sha256(issuer).digest() for issuer in self.chain)
        return self.timestamped + opaque(2, fingerprints)


def entries(log: str, count: int, *, leaf_index: bool = False) -> list[OddEntry]:
    """Entries of one log, each with a name of its own."""
    return [
        OddEntry(
            certificate(subject_alt_name(dns(f"c{index}.{log}.example"))),
            extensions=b"\0\0\5" + index.to_bytes(5) if leaf_index else b"",
        )
        for index in range(count)
    ]


class OddLog:
    """An RFC 6962 log; an odd one overrides what is odd about it.

    Attributes:
        size: entries in its newest tree head.
        requests: paths with their queries, in order.
    """

    kind = "custom_logs"

    def __init__(self, name: str, taken: Sequence[OddEntry], size: int | None = None) -> None:
        self.name = name
        self.key = LogKey(7, name)
        self.size = len(taken) if size is None else size
        self.requests: list[str] = []
        self.take(taken)

    def take(self, taken: Sequence[OddEntry]) -> None:
        """Hold these entries, and no others."""
        self.entries = list(taken)
        self.tree = Tree()
        for entry in taken:
            self.tree.append(leaf_hash(entry.leaf))

    def setting(self, server: str) -> dict[str, object]:
        key = base64.b64encode(self.key.public).decode()
        return {"name": self.name, "url": f"{server}/{self.name}/", "key": key}

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        endpoint = path.removeprefix("ct/v1/").replace("-", "_")
        found: Any = getattr(self, endpoint, None)
        if not path.startswith("ct/v1/") or found is None:
            return NOT_FOUND
        body = found(query)
        return body if isinstance(body, Answer) else Answer(json.dumps(body).encode())

    def get_sth(self, _query: dict[str, str]) -> object:
        root = self.tree.root(self.size)
        timestamp = int(time.time() * 1000)
        signed = b"\0\1" + timestamp.to_bytes(8) + self.size.to_bytes(8) + root
        return {
            "tree_size": self.size,
            "timestamp": timestamp,
            "sha256_root_hash": _text(root),
            "tree_head_signature": _text(self.key.sign(signed)),
        }

    def get_entries(self, query: dict[str, str]) -> object:
        first, last = int(query["start"]), int(query["end"])
        served = range(first, min(last + 1, self.size, first + self.most))
        if not served:
            return Answer(b"{}", "400 Bad Request")
        return {"entries": [self.served(index) for index in served]}

    most = 1000

    def served(self, index: int) -> dict[str, object]:
        entry = self.entries[index]
        return {"leaf_input": _text(entry.leaf), "extra_data": _text(entry.extra_data)}

    def get_proof_by_hash(self, query: dict[str, str]) -> object:
        size = int(query["tree_size"])
        index = self.tree.index(base64.b64decode(query["hash"]), size)
        if index is None:
            return NOT_FOUND
        path = self.tree.inclusion_proof(index, size)
        return {"leaf_index": index, "audit_path": [_text(each) for each in path]}

    def get_entry_and_proof(self, query: dict[str, str]) -> object:
        index, size = int(query["leaf_index"]), int(query["tree_size"])
        if index >= size or size > len(self.entries):
            return Answer(b"{}", "400 Bad Request")
        path = self.tree.inclusion_proof(index, size)
        return {**self.served(index), "audit_path": [_text(each) for each in path]}

    def get_sth_consistency(self, query: dict[str, str]) -> object:
        first, second = int(query["first"]), int(query["second"])
        if second > len(self.entries):
            return Answer(b"{}", "400 Bad Request")
        proof = self.tree.consistency_proof(first, second)
        return {"consistency": [_text(each) for each in proof]}


class OddStaticLog(OddLog):
    """A static-ct log of the same kind."""

    kind = "static_logs"

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        del query
        if path == "checkpoint":
            return Answer(self.checkpoint(self.size))
        kind, *rest = path.split("/")
        if kind == "issuer":
            return self.issuer(rest[0])
        if kind == "tile" and rest:
            level, index, *partial = rest
            width = int(partial[0]) if partial else TILE
            return self.tile(level, int(index.removesuffix(".p")), width)
        return NOT_FOUND

    def checkpoint(self, size: int) -> bytes:
        root, timestamp = self.tree.root(size), int(time.time() * 1000)
        signed = b"\0\1" + timestamp.to_bytes(8) + size.to_bytes(8) + root
        key_hash = note_key_hash(self.name, 5, self.key.log_id)
        line = _text(key_hash + timestamp.to_bytes(8) + self.key.sign(signed))
        return f"{self.name}\n{size}\n{_text(root)}\n\n\u2014 {self.name} {line}\n".encode()

    def issuer(self, fingerprint: str) -> Answer:
        for issuer in {issuer for entry in self.entries for issuer in entry.chain}:
            if sha256(issuer).hexdigest() == fingerprint:
                return Answer(issuer)
        return NOT_FOUND

    def tile(self, level: str, index: int, width: int) -> Answer:
        if level == "data":
            if index * TILE + width > self.size:
                return NOT_FOUND
            return self.data(index, width)
        if index * TILE + width > self.size >> 8 * int(level):
            return NOT_FOUND
        return Answer(self.tree.tile(int(level), index, width))

    def data(self, index: int, width: int) -> Answer:
        held = self.entries[index * TILE : index * TILE + width]
        return Answer(b"".join(entry.tile_leaf for entry in held))


class OddLogs:
    """A server with some of them.

    Attributes:
        settings: the configuration of exactly these logs, without lists.
    """

    def __init__(self, server: HostileServer, logs: Sequence[OddLog]) -> None:
        self._logs = {log.name: log for log in logs}
        server.answers["*"] = self._answer
        self.settings: dict[str, list[dict[str, object]]] = {
            kind: [log.setting(server.url) for log in logs if log.kind == kind]
            for kind in ("custom_logs", "static_logs")
        }

    def _answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        name, _, path = parts.path.lstrip("/").partition("/")
        log = self._logs.get(name)
        if log is None:
            return NOT_FOUND
        log.requests.append(f"{path}?{parts.query}" if parts.query else path)
        return log.answer(path, {key: value[0] for key, value in parse_qs(parts.query).items()})


@asynccontextmanager
async def odd_logs(*logs: OddLog) -> AsyncIterator[OddLogs]:
    async with hostile_server() as server:
        yield OddLogs(server, logs)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
