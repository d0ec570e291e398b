"""What one entry costs on its way from a log's answer to three messages, stage by stage.

    python -m bench.parse [entries] [rounds]

The twenty real entries of the fixtures, repeated; each copy gets a serial number, key id and DNS
names of its own, so that caches find what they would find in a real log (issuers, policies,
chains), and nothing else. What the bench cannot vary: chains and issuers are fewer than in real
logs, dates are closer together. Times are CPU times of this process, the median of some rounds.
"""

import argparse
import json
import random
import statistics
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509

from ctparse import merkle, rfc6962, static_ct
from ctparse.certificate import CertificateReader
from ctparse.entry import Entry
from ctparse.wire_messages import MessageWriter, Source

_T = TypeVar("_T")

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "ct_entries.json"
BATCH = 256
SEEN = 1_700_000_000.25


def varied_entries(count: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """Yield leaf_input and extra_data of entries that are all different."""
    real: list[dict[str, Any]] = json.loads(FIXTURE.read_bytes())
    chance = random.Random(seed)
    own = [_own_bytes(b64decode(e["expected_full"]["data"]["leaf_cert"]["as_der"])) for e in real]
    for position in range(count):
        entry = real[position % len(real)]
        leaf, extra = b64decode(entry["leaf_input"]), b64decode(entry["extra_data"])
        for old, digits in own[position % len(real)]:
            new = (
                bytes(chance.choice(digits) for _ in old) if digits else chance.randbytes(len(old))
            )
            leaf, extra = leaf.replace(old, new), extra.replace(old, new)
        yield leaf, extra


def _own_bytes(der: bytes) -> list[tuple[bytes, bytes]]:
    """Find what a certificate has for itself: the bytes, and what they may become (b"": any)."""
    certificate = x509.load_der_x509_certificate(der)
    serial = certificate.serial_number
    key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    labels = {
        label.encode()
        for name in names.get_values_for_type(x509.DNSName)
        for label in name.split(".")[:-1]
    }
    # The serial number's first octet stays, so that it neither shrinks nor turns negative.
    serial_octets = serial.to_bytes(serial.bit_length() // 8 + 1).lstrip(b"\0")[1:]
    return [
        (serial_octets, b""),
        (key_id, b""),
        *((label, b"abcdefghijklmnopqrstuvwxyz") for label in labels if len(label) > 3),
    ]


def data_tile(entries: list[Entry]) -> bytes:
    """Pack entries of an RFC 6962 log as a static-ct log would serve them."""
    tile = bytearray()
    for entry in entries:
        # The leaf without version, leaf_type and the empty extensions.
        tile += entry.leaf[2:-2] + b"\0\x08\0\0\x05" + entry.index.to_bytes(5)
        if entry.is_precert:
            tile += len(entry.certificate).to_bytes(3) + entry.certificate
        issuers = [sha256(der).digest() for der in rfc6962.chain_certificates(entry.chain)]
        tile += (32 * len(issuers)).to_bytes(2) + b"".join(issuers)
    return bytes(tile)


def bodies(entries: list[tuple[bytes, bytes]]) -> list[tuple[int, bytes]]:
    """Write the answers to get-entries: first index and body."""
    return [
        (
            first,
            json.dumps(
                {
                    "entries": [
                        {
                            "leaf_input": b64encode(leaf).decode(),
                            "extra_data": b64encode(extra).decode(),
                        }
                        for leaf, extra in entries[first : first + BATCH]
                    ]
                },
                separators=(",", ":"),
            ).encode(),
        )
        for first in range(0, len(entries), BATCH)
    ]


class Stopwatch:
    """CPU time by stage: adds up within a round, takes the median of the rounds."""

    def __init__(self) -> None:
        self._rounds: list[dict[str, int]] = []

    def start_round(self) -> None:
        self._rounds.append({})

    def run(self, stage: str, work: Callable[[], _T]) -> _T:
        started = time.process_time_ns()
        result = work()
        spent = time.process_time_ns() - started
        self._rounds[-1][stage] = self._rounds[-1].get(stage, 0) + spent
        return result

    def median_us(self, stage: str) -> float:
        return statistics.median(times[stage] for times in self._rounds) / 1000


def measure(count: int, rounds: int) -> list[tuple[str, float]]:
    """Measure `count` entries `rounds` times: stages and their µs an entry."""
    answers = bodies(list(varied_entries(count)))
    source = Source("Example 'Log2026'", "https://log.example/2026/", "Example", "rfc6962")
    reader = CertificateReader()
    writer = MessageWriter(
        source,
        lambda index: f"{source.url}ct/v1/get-entries?start={index}&end={index}",
        rfc6962.chain_certificates,
        reader=reader,
    )
    watch = Stopwatch()
    for _ in range(rounds):
        watch.start_round()
        for first, body in answers:
            _measure_batch(watch, first, body, reader, writer)
    decode, hashing, read, write, tile, tree = (
        watch.median_us(stage) / count
        for stage in ("decode", "hash", "read", "write", "tile", "tree")
    )
    return [
        ("decode get-entries (JSON, base64, structures)", decode),
        ("SHA-256 of the certificate", hashing),
        ("read the certificate", read),
        ("write full, lite and domains (with SHA-1, base64)", write - read),
        ("an RFC 6962 entry, all of the above", decode + hashing + write),
        ("instead of decode get-entries: decode a data tile", tile),
        ("besides: leaf hash and Merkle frontier", tree),
    ]


def _measure_batch(
    watch: Stopwatch, first: int, body: bytes, reader: CertificateReader, writer: MessageWriter
) -> None:
    decoded = watch.run("decode", lambda: rfc6962.decode_entries(body, first))
    entries = [entry for entry in decoded if isinstance(entry, Entry)]
    assert entries == decoded, "the bench made an entry that is rejected"
    digests = watch.run("hash", lambda: [sha256(e.certificate).digest() for e in entries])
    watch.run("read", lambda: [reader.read(e.certificate) for e in entries])
    watch.run(
        "write", lambda: [writer.write(e, d, SEEN) for e, d in zip(entries, digests, strict=True)]
    )
    watch.run("tree", lambda: _grow(entries))
    tile = data_tile(entries)
    watch.run("tile", lambda: static_ct.decode_tile(tile, first))


def _grow(entries: list[Entry]) -> None:
    frontier = merkle.Frontier()
    for entry in entries:
        frontier.append(merkle.leaf_hash(entry.leaf))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("entries", nargs="?", type=int, default=5120, help="default: %(default)s")
    parser.add_argument("rounds", nargs="?", type=int, default=9, help="default: %(default)s")
    options = parser.parse_args()
    for stage, spent in measure(options.entries, options.rounds):
        print(f"{spent:8.2f} µs  {stage}")


if __name__ == "__main__":
    main()
