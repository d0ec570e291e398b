"""Everything that reads bytes from outside: what it may raise, and inputs that it accepts."""

import base64
import contextlib
import gzip
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h11
import msgspec

from certbus.streams.codec import Codec, UndecodableBatch
from certbus.streams.events import decode, decode_entry
from certconf import ConfigError, load
from certhttp.protocol import RequestError, ServerProtocol
from ctfilter import Certificate, Evaluator, FilterError, Index, IndexFull, parse_filter
from ctparse.entry import Entry, IncompleteChain, Malformed, Rejected, Unreadable
from ctparse.merkle import BadProof, Frontier, leaf_hash, verify_consistency, verify_inclusion
from ctparse.precert import is_committed, pubkey_sha256, tbs_sha256, tbs_without_scts
from ctparse.rfc6962 import (
    chain_certificates,
    decode_consistency,
    decode_entries,
    decode_entry_and_proof,
    decode_proof_by_hash,
    decode_sth,
)
from ctparse.signatures import BadKey, BadSignature, load_log_key, verify_tree_head
from ctparse.static_ct import (
    FINGERPRINT_BYTES,
    decode_tile,
    fingerprints,
    parse_checkpoint,
    tree_head,
    without_extensions,
)
from ctparse.v2_message import v2_message
from ctparse.wire_messages import MessageWriter
from gateway.clients.websocket import accept
from gateway.delivery.filter_messages import certificate_of, with_matches
from ingestor.loglists.parser import is_followed
from ingestor.loglists.parser import parse as parse_log_list
from tests.ctparse.reading import SOURCE, link, new_writer, write
from tests.fuzz.growth import MAX_BYTES, Grown, Repeat, around, repeat_element, repeat_slice
from tests.fuzz.websocket import Receiver
from tests.paths import FIXTURES

_REAL: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
_CERTIFICATES = [
    base64.b64decode(each["expected_full"]["data"]["leaf_cert"]["as_der"]) for each in _REAL
]
_PAIR = (FIXTURES / "issuance_pair.pem").read_bytes().split(b"-----END CERTIFICATE-----\n")
_CERTIFICATES += [base64.b64decode(b"".join(block.splitlines()[1:])) for block in _PAIR if block]
_WRITER = new_writer()
_CODEC = Codec()
_SUNLIGHT = FIXTURES / "sunlight"
_SUNLIGHT_KEY = load_log_key(
    base64.b64decode(json.loads((_SUNLIGHT / "log.v3.json").read_bytes())["key"])
)
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


Resolve = Callable[[bytes], Sequence[bytes]]
"""Returns the certificates of the chain of an entry."""


class Target(msgspec.Struct, frozen=True):
    """A function that reads bytes.

    Attributes:
        run: raises what is documented only as one of `documented`.
        seeds: inputs that it accepts.
        tokens: pieces of its language.
        documented: exceptions that mean "not valid".
        grown: inputs of any length whose repetition is valid; that of a slice seldom is.
        repeat: selects what an input repeats.
        max_bytes: the longest of these.
    """

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    documented: tuple[type[Exception], ...] = ()
    grown: Sequence[Grown] = ()
    repeat: Repeat = repeat_slice
    max_bytes: int = MAX_BYTES

    def __call__(self, data: bytes) -> None:
        """Run it.

        Raises:
            Exception: a finding.
        """
        with contextlib.suppress(*self.documented):
            self.run(data)


def _certificate(data: bytes) -> None:
    for digest in (tbs_without_scts, pubkey_sha256):
        with contextlib.suppress(Unreadable):
            digest(data)
    message = write(data, _WRITER)
    v2 = v2_message(message.full, None)
    certificate = certificate_of("full", message.full)
    assert certificate.equals(certificate_of("v2", v2))
    assert certificate.names == certificate_of("domains", message.domains).names
    found = _INDEX.lookup(certificate)
    for given, evaluator in _EVALUATORS.items():
        matches = evaluator.matches(certificate)
        assert found.get(given, []) == matches
    msgspec.json.decode(with_matches(message.lite, matches))
    tbs = data[4:]  # and the signature
    leaf = bytes(44) + len(tbs).to_bytes(3) + tbs + b"\0\0"
    is_committed(Entry(7, 0, True, data, b"", leaf), lambda _: ())


def _entries(data: bytes) -> None:
    for index, entry in enumerate(decode_entries(data, 7), 7):
        assert entry.index == index
        _write(entry, _WRITER, chain_certificates)


def _write(entry: Entry | Rejected, writer: MessageWriter, resolve: Resolve) -> None:
    """Do what an ingestor does with an entry."""
    if isinstance(entry, Entry):
        with contextlib.suppress(Unreadable):
            writer.size(entry)
            writer.write(entry, bytes(32), 0.0)
            with contextlib.suppress(Malformed, IncompleteChain):
                if entry.is_precert:
                    is_committed(entry, resolve)
            tbs_sha256(entry)
    without_extensions(entry.leaf)


def _answers(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode_sth(data)
    with contextlib.suppress(Malformed, BadProof):
        index, path = decode_proof_by_hash(data)
        verify_inclusion(index, index + 1 + len(path), bytes(32), path, bytes(32))
    with contextlib.suppress(Malformed, BadProof):
        leaf, path = decode_entry_and_proof(data)
        Frontier.from_inclusion_proof(4, 7, leaf_hash(leaf), path, bytes(32))
    with contextlib.suppress(Malformed, BadProof):
        verify_consistency(3, 7, bytes(32), bytes(32), decode_consistency(data))


def _checkpoint(data: bytes) -> None:
    head = tree_head(parse_checkpoint(data))
    with contextlib.suppress(BadSignature):
        verify_tree_head(_SUNLIGHT_KEY, head)


def _log_list(data: bytes) -> None:
    found = parse_log_list(data)
    assert len(found.rank) < 300
    for log in found.logs:
        is_followed(log, 0.0)
        if log.key is not None:
            with contextlib.suppress(BadKey):
                load_log_key(log.key)


def _tile(data: bytes) -> None:
    for entry in decode_tile(data, 512):
        _write(entry, _TILE_WRITER, _issuers)


def _issuers(chain: bytes) -> Sequence[bytes]:
    """Look up the certificates of a chain, of which only one is known."""
    known = [_CERTIFICATES[0] for each in fingerprints(chain) if each[0] % 2]
    if len(known) * FINGERPRINT_BYTES < len(chain):
        raise IncompleteChain("not available", known)
    return known


_TILE_WRITER = MessageWriter(SOURCE, link, _issuers)


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
    """Read lines; if the first one begins with "?", it is a domain, a "?" and an issuer."""
    lines = data.decode(errors="replace").split("\n")
    domain = issuer = ""
    if lines[0].startswith("?"):
        domain, _, issuer = lines.pop(0)[1:].partition("?")
    found = parse_filter(domain, issuer, lines)
    if found is None:
        return
    groups = [parse_filter(match=[line.text for line in group]) for group in found.groups]
    assert parse_filter(also=[group for group in groups if group is not None]) == found
    index = Index()
    with contextlib.suppress(IndexFull):
        index.add(found)
        evaluator = Evaluator(found)
        for certificate in _COMPARED:
            assert index.lookup(certificate).get(found, []) == evaluator.matches(certificate)
    index.remove(found)
    assert not index.scans


def _http(data: bytes) -> None:
    protocol = ServerProtocol(keep_bodies=True)
    for start in range(0, len(data), 1000):
        protocol.receive(data[start : start + 1000])
        while (request := protocol.next_request()) is not None:
            if request.websocket and protocol.head is not None:
                _handshake(protocol.head)
            protocol.encode(200, (), b"")
            if not protocol.next_cycle():
                return


def _handshake(head: h11.Request) -> None:
    headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
    line = head.method.decode(), head.http_version.decode()
    response, _ = accept(head.target.decode(), headers, *line, compression=True)
    response.serialize()


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
    batch = decode(_CODEC, "lite", "5-0", fields, packed=True)
    messages = list(batch.messages)
    assert messages == decode(_CODEC, "lite", "5-0", fields).messages
    name, blob = fields[b"codec"].decode(), fields[b"m"]
    assert _CODEC.pick(name, blob, len(messages) - 1) == messages[-1]
    assert _CODEC.pick(name, blob, len(messages)) is None


def _stored(codec: bytes, blob: bytes) -> bytes:
    pairs = {b"n": b"2", b"codec": codec, b"m": blob, b"prev": b"4-0", b"log": b"aa"}
    pairs |= {b"first": b"7", b"last": b"9"}
    return b"\xff\xfe".join(part for pair in pairs.items() for part in pair)


def _served(count: int) -> bytes:
    entries = [{name: each[name] for name in ("leaf_input", "extra_data")} for each in _REAL]
    return json.dumps({"entries": entries[:count]}).encode()


def _listed(operators: int) -> bytes:
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
_TO_PROXY = b"GET http://[::1]:80/sse?stream=lite HTTP/1.1\r\nHost: a\r\n\r\n"
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_SUBSCRIBE = b'{"type":"subscribe","match":["domain:a.example","like:paypal"]}'
_FRAMES = (
    b"\x89\x84\x00\x00\x00\x00ping",
    b"\x81\x85\x01\x02\x03\x04iglmn",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\xc1\x87\x00\x00\x00\x00\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\x81%c\x00\x00\x00\x00%b" % (0x80 | len(_SUBSCRIBE), _SUBSCRIBE),
)
_FILTERS = (
    b"contains:acme -domain:acme.com",
    b'issuer:"Let\'s Encrypt" type:precert',
    b"like:paypal idn:yes\nregex:log[io]n-[a-z]{2,9} wildcard:no\nname:www.example.com",
    "domain:bücher.example operator:google".encode(),
    b"?a.example,*.b.example?let's encrypt,digicert\ntype:final",
)

_ENTRY = _served(1).removeprefix(b'{"entries": [').removesuffix(b"]}")
_OPERATOR = _listed(1).split(b'"operators": [')[1].removesuffix(b"]}")
_BATCH_HEAD, _BATCH_TAIL = _stored(b"none", b"{}\n@").split(b"@")
_CONFIGURATION = b"""port: 8081
ct_log:
  batch_size: 256
auth: {enabled: true, tokens: [a, b]}
"""


def _message(size: int) -> bytes:
    """Return one masked text frame."""
    return b"\x81\xff" + size.to_bytes(8, "big") + bytes(4) + b"a" * size


_MATCHED = [parse_filter(match=text.decode().split("\n")) for text in _FILTERS[:-1]]
_MATCHED.append(parse_filter("com,net,org,de", "let's encrypt,google,digicert"))
_EVALUATORS = {given: Evaluator(given) for given in _MATCHED if given is not None}
_INDEX = Index()
for _given in _EVALUATORS:
    _INDEX.add(_given)
_COMPARED = [certificate_of("lite", write(each, _WRITER).lite) for each in _CERTIFICATES[:2]]
_COMPARED.append(
    Certificate(
        ("www.ck", "a.b.ck", "*.paypa1.co.uk.", "xn--bcher-kva.example", "a@b", "b" * 300, "ﬁ.ß"),
        "R3",
        "Let's Encrypt",
    )
)

TARGETS = {
    "certificate": Target(
        _certificate, _CERTIFICATES, _DER, (Unreadable,), repeat=repeat_element
    ),
    "get_entries": Target(
        _entries, [_served(1), _served(3)], _JSON, (Malformed,),
        [around(b'{"entries":[', _ENTRY + b",", _ENTRY + b"]}")],
    ),
    "answers": Target(
        _answers, [json.dumps(each).encode() for each in (_STH, _PROOF)], _JSON, (),
        [around(b'{"leaf_index":4,"audit_path":[', b'"' + b"A" * 43 + b'=",', b'""]}')],
    ),
    "tile": Target(
        _tile, [_first_entries(3000), _first_entries(20_000)], _DER, (Malformed,),
        [around(b"", _first_entries(3000))],
    ),
    "checkpoint": Target(
        _checkpoint,
        [(_SUNLIGHT / "checkpoint").read_bytes()],
        (b"\n\n", "\n— ".encode(), b"=", b"0", b" "),
        (Malformed,),
        [around((_SUNLIGHT / "checkpoint").read_bytes(), "— a AAAAAAA=\n".encode())],
    ),
    "log_list": Target(
        _log_list, [_listed(2), b'{"operators":[]}'], _JSON, (Malformed,),
        [around(b'{"operators":[', _OPERATOR + b",", _OPERATOR + b"]}")],
    ),
    "filter": Target(
        _filter,
        _FILTERS,
        (b'"', b"\\", b"-", b":", b" ", b"\n", b"*.", "ß".encode(), b"xn--", b"(", b"{9}"),
        (FilterError,),
        [around(b"", b"domain:a.example -like:paypal\n", b"regex:log[io]n")],
    ),
    "http": Target(
        _http,
        (_REQUEST, _UPGRADE, _REQUEST * 2, _TO_PROXY),
        (
            b"\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
            b"\x00", b"%", b" ", b"http://", b"[", b"]", b":", b"@", b"/", b"?", b"\xb2",
        ),
        (RequestError,),
        [
            around(b"", _REQUEST),
            around(_CHUNKED, b"1\r\na\r\n"),
        ],
    ),
    "websocket": Target(
        Receiver(),
        (*_FRAMES, b"".join(_FRAMES)),
        (b"\x80", b"\xfe\xff\xff", b"\x00\x80\x00\x00\x00\x00", b"\x01\x81\x00\x00\x00\x00a"),
        (),
        [_message, around(b"\x01\x80\x00\x00\x00\x00", b"\x00\xfe\x03\xe8" + bytes(1004))],
    ),
    "configuration": Target(
        _configuration,
        [_CONFIGURATION],
        (b": ", b"\n", b"- ", b"  ", b"&a ", b"*a", b"!!", b"{", b"[", b"'", b"0x", b"~", b"\t"),
        (ConfigError,),
        [
            around(b"auth:\n  tokens:\n", b"  - abc\n"),
            around(b"", b"# a\n"),
            around(b"auth: ", b"{"),
        ],
        max_bytes=MAX_BYTES // 4,  # no client or log sends it; PyYAML is slow
    ),
    "stream_entry": Target(
        _stream_entry,
        [_stored(b"zstd", Codec().pack([b"{}", b"[]"])), _stored(b"none", b"{}\n[]")],
        (b"\xff\xfe", b"\n", b"-", b"none", b"\x28\xb5\x2f\xfd"),
        (UndecodableBatch,),
        [around(_BATCH_HEAD, b"a", _BATCH_TAIL)],
    ),
}  # fmt: skip
