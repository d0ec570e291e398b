"""Messages of distinct certificates, as many authorities issue them into many logs.

Keys, serial numbers, names, signatures and fingerprints are random, so compression finds only what
real certificates repeat: field names, issuers, extensions, sources.
"""

import random
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO

import msgspec

from ctparse.entry import Entry
from ctparse.rfc6962 import chain_certificates
from ctparse.wire_messages import Message, MessageWriter, Source
from simlog.pki import authorities, certificates
from simlog.pki.authorities import Authority
from simlog.spec import LogSpec, Spec

AUTHORITIES = 20
LOGS = 20
NOW = 1_796_000_000  # seconds since the epoch
_LETTERS = "eeeetttaaaoooiiinnnssrrhhllddccuummffppggwwyybbvvk0123456789-xjqz"
_TLDS = ("com", "net", "org", "de", "co.uk", "com.br", "io", "shop", "xyz", "fr", "nl", "app")


class _Random(certificates.Certificates):
    """Certificates with random names and keys."""

    def __init__(self, seed: int) -> None:
        spec = Spec(logs=(LogSpec("a", "rfc6962", "A"),), start=float(NOW), seed=seed)
        logs = tuple(sha256(b"log %d" % number).digest() for number in range(LOGS))
        super().__init__(spec, logs)
        self._by_weight = list(_authorities(seed))

    def _key(self, issuer: Authority, chance: BytesIO) -> tuple[bytes, bytes]:
        usage, key = super()._key(issuer, chance)
        return usage, key[:-64] + chance.read(64)

    def _names(self, chance: BytesIO, pair: int) -> tuple[str, ...]:  # noqa: ARG002
        drawn = random.Random(chance.read(16))
        name = "".join(drawn.choices(_LETTERS, k=drawn.randint(4, 16))).strip("-")
        domain = f"{name or 'a'}.{drawn.choice(_TLDS)}"
        kind = drawn.random()
        if kind < 0.35:
            return (domain,)
        if kind < 0.85:
            return domain, f"{'www' if kind < 0.6 else '*'}.{domain}"
        labels = ("".join(drawn.choices(_LETTERS, k=5)).strip("-") for _ in range(3))
        return domain, *(f"{label or 'b'}.{domain}" for label in labels)


def _authorities(seed: int) -> tuple[Authority, ...]:
    """Each style of simlog, under several names."""
    styles = authorities.STYLES
    named = [
        msgspec.structs.replace(
            styles[number % len(styles)],
            name=f"{styles[number % len(styles)].name.partition(' ')[0]}{number} TLS CA",
            organization=f"{styles[number % len(styles)].organization} {number // len(styles)}",
        )
        for number in range(AUTHORITIES)
    ]
    return authorities.create_authorities(seed, NOW, named)


def batches(seed: int = 0) -> Iterator[list[Message]]:
    """Yield batches of 8 to 64 messages, each of one log; half of them of precertificates."""
    drawn = random.Random(seed)
    made = _Random(seed)
    writers = [_writer(number) for number in range(LOGS)]
    indexes = [drawn.randrange(10**8, 3 * 10**9) for _ in range(LOGS)]
    number = 0
    while True:
        log = drawn.randrange(LOGS)
        batch = []
        seen = round(time.time(), 6)
        for _ in range(drawn.randint(8, 64)):
            # One of the pair: the deduplicated stream has both, minutes apart.
            certificate = made.make(2 * number + drawn.randrange(2))
            number += 1
            chain = b"".join(len(der).to_bytes(3) + der for der in certificate.issuer.chain)
            timestamp = int(seen * 1000) - drawn.randrange(500, 60_000)
            entry = Entry(
                indexes[log], timestamp, certificate.is_precert, certificate.der, chain, b""
            )
            indexes[log] += drawn.choice((1, 1, 1, 2, 3))  # the others were duplicates
            batch.append(writers[log].write(entry, certificate.sha256, seen))
        yield batch


def _writer(number: int) -> MessageWriter:
    url = f"https://ct{number}.operator{number % 7}.example/logs/2026h{number % 2 + 1}/"
    source = Source(
        f"Operator {number % 7} 'Log{number}2026'", url, f"Operator {number % 7}", "rfc6962"
    )
    return MessageWriter(
        source,
        lambda index: f"{url}ct/v1/get-entries?start={index}&end={index}",
        chain_certificates,
    )
