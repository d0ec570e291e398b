"""Everything that reads bytes from outside: what it may raise, and inputs that it accepts."""

import base64
import contextlib
import gzip
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as WebSocketProtocol

from certbus.streams.codec import Codec, UndecodableBatch
from certbus.streams.events import decode, decode_entry
from certconf import ConfigError, load
from certhttp.protocol import RequestError, ServerProtocol
from ctfilter import FilterError, parse_filter
from ctparse.entry import Entry, Malformed, Unreadable
from ctparse.rfc6962 import (
    decode_consistency,
    decode_entries,
    decode_entry_and_proof,
    decode_proof_by_hash,
    decode_sth,
)
from ctparse.static_ct import decode_tile, fingerprints, parse_checkpoint, tree_head
from ingestor.loglists.parser import parse as parse_log_list
from tests.ctparse.reading import new_writer, write
from tests.paths import FIXTURES

_REAL: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
_CERTIFICATES = [
    base64.b64decode(each["expected_full"]["data"]["leaf_cert"]["as_der"]) for each in _REAL
]
_WRITER = new_writer()
_CODEC = Codec()
_SUNLIGHT = FIXTURES / "sunlight"
_TILE = gzip.decompress((_SUNLIGHT / "tile/data/002.p/188").read_bytes())
_DER = (
    b"\x30\x80",
    b"\x30\x82\xff\xff",
    b"\x06\x03\x55\x1d\x11",
    b"\xa0\x03",
    b"\x17\x0d",
    b"\x00",
)
_JSON = (b'"', b"{", b"[", b"]", b"}", b"null", b"-1", b"1e999", b"\\ud800", b'"":', b",")


class Target(msgspec.Struct, frozen=True):
    """A function that reads bytes.

    Attributes:
        run: raises what is documented only as one of `documented`.
        seeds: inputs that it accepts.
        tokens: pieces of its language.
        documented: exceptions that mean "not valid".
    """

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    documented: tuple[type[Exception], ...] = ()

    def __call__(self, data: bytes) -> None:
        """Run it.

        Raises:
            Exception: a finding.
        """
        with contextlib.suppress(*self.documented):
            self.run(data)


def _certificate(data: bytes) -> None:
    message = write(data, _WRITER)
    for encoded in (message.full, message.lite, message.domains):
        msgspec.json.decode(encoded)


def _entries(data: bytes) -> None:
    for index, entry in enumerate(decode_entries(data, 7), 7):
        assert entry.index == index
        if isinstance(entry, Entry):
            with contextlib.suppress(Unreadable):
                _WRITER.write(entry, bytes(32), 0.0)


def _answers(data: bytes) -> None:
    for read in (decode_sth, decode_proof_by_hash, decode_entry_and_proof, decode_consistency):
        with contextlib.suppress(Malformed):
            read(data)


def _tile(data: bytes) -> None:
    for entry in decode_tile(data, 512):
        if isinstance(entry, Entry):
            fingerprints(entry.chain)


def _first_entries(size: int) -> bytes:
    """Return the entries of a real tile that end within `size` bytes."""
    while True:
        try:
            decode_tile(_TILE[:size], 512)
        except Malformed:
            size -= 1
        else:
            return _TILE[:size]


def _filter(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = parse_filter(match=text.split("\n"))
    if found is not None:
        assert parse_filter(match=[line.text for line in found.groups[0]]) == found


def _http(data: bytes) -> None:
    protocol = ServerProtocol(keep_bodies=True)
    for start in range(0, len(data), 1000):
        protocol.receive(data[start : start + 1000])
        while protocol.next_request() is not None:
            protocol.encode(200, (), b"")
            if not protocol.next_cycle():
                return


_quiet = logging.getLogger("tests.fuzz")
_quiet.disabled = True


def _websocket(data: bytes) -> None:
    protocol = WebSocketProtocol(SERVER, state=OPEN, max_size=4096, logger=_quiet)
    protocol.extensions.append(
        PerMessageDeflate(
            remote_no_context_takeover=True,
            local_no_context_takeover=True,
            remote_max_window_bits=15,
            local_max_window_bits=15,
        )
    )
    for start in range(0, len(data), 1000):
        protocol.receive_data(data[start : start + 1000])
        protocol.events_received()
        protocol.data_to_send()


def _configuration(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml", dir=_MEMORY) as file:
        file.write(data)
        file.flush()
        load(file.name, {})


# Not on a disk.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def _stream_entry(data: bytes) -> None:
    """Read pairs of fields and values, as Redis returns them, separated by 0xFF 0xFE."""
    parts = data.split(b"\xff\xfe")
    fields = dict(zip(parts[::2], parts[1::2], strict=False))
    decode_entry(_CODEC, "lite", "5-0", fields)
    decode(_CODEC, "lite", "5-0", fields)


def _stored(codec: bytes, blob: bytes) -> bytes:
    pairs = {b"n": b"2", b"codec": codec, b"m": blob, b"prev": b"4-0", b"log": b"aa"}
    pairs |= {b"first": b"7", b"last": b"9"}
    return b"\xff\xfe".join(part for pair in pairs.items() for part in pair)


def _served(count: int) -> bytes:
    entries = [{name: each[name] for name in ("leaf_input", "extra_data")} for each in _REAL]
    return json.dumps({"entries": entries[:count]}).encode()


def _log_list(operators: int) -> bytes:
    whole = json.loads((FIXTURES / "log_list.json").read_bytes())
    return json.dumps({**whole, "operators": whole["operators"][:operators]}).encode()


_STH = {
    "tree_size": 5,
    "timestamp": 1779302893443,
    "sha256_root_hash": base64.b64encode(bytes(32)).decode(),
    "tree_head_signature": base64.b64encode(bytes(range(72))).decode(),
}
_PROOF = {"leaf_index": 4, "audit_path": [base64.b64encode(bytes(32)).decode()] * 3}
_REQUEST = (
    b"GET /sse?stream=lite&match=domain%3Aa.example HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
)
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_FRAMES = (
    b"\x89\x84\x00\x00\x00\x00ping",
    b"\x81\x85\x01\x02\x03\x04iglmn",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00",
)
_FILTERS = (
    b"contains:acme -domain:acme.com",
    b'issuer:"Let\'s Encrypt" type:precert',
    b"like:paypal idn:yes\nregex:log[io]n-[a-z]{2,9} wildcard:no\nname:www.example.com",
    "domain:bücher.example operator:google".encode(),
)

TARGETS = {
    "certificate": Target(_certificate, _CERTIFICATES, _DER, (Unreadable,)),
    "get_entries": Target(_entries, [_served(1), _served(3)], _JSON, (Malformed,)),
    "answers": Target(_answers, [json.dumps(each).encode() for each in (_STH, _PROOF)], _JSON),
    "tile": Target(_tile, [_first_entries(3000), _first_entries(20_000)], _DER, (Malformed,)),
    "checkpoint": Target(
        lambda data: tree_head(parse_checkpoint(data)),
        [(_SUNLIGHT / "checkpoint").read_bytes()],
        (b"\n\n", "\n— ".encode(), b"=", b"0", b" "),
        (Malformed,),
    ),
    "log_list": Target(
        parse_log_list,
        [_log_list(2), b'{"operators":[]}'],
        _JSON,
        (Malformed,),
    ),
    "filter": Target(
        _filter,
        _FILTERS,
        (b'"', b"\\", b"-", b":", b" ", b"\n", b"*.", "ß".encode(), b"xn--", b"(", b"{9}"),
        (FilterError,),
    ),
    "http": Target(
        _http,
        (_REQUEST, _UPGRADE, _REQUEST * 2),
        (b"\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\x00", b"%", b" "),
        (RequestError,),
    ),
    "websocket": Target(_websocket, (*_FRAMES, b"".join(_FRAMES)), (b"\x80", b"\xfe\xff\xff")),
    "configuration": Target(
        _configuration,
        [b"port: 8081\nct_log:\n  batch_size: 256\nauth: {enabled: true, tokens: [a, b]}\n"],
        (b": ", b"\n", b"- ", b"  ", b"&a ", b"*a", b"!!", b"{", b"[", b"'", b"0x", b"~", b"\t"),
        (ConfigError,),
    ),
    "stream_entry": Target(
        _stream_entry,
        [_stored(b"zstd", Codec().pack([b"{}", b"[]"])), _stored(b"none", b"{}\n[]")],
        (b"\xff\xfe", b"\n", b"-", b"none", b"\x28\xb5\x2f\xfd"),
        (UndecodableBatch,),
    ),
}  # fmt: skip
