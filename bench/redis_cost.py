"""What a certificate costs in Redis, and which codec makes the whole system cheapest.

    python -m bench.redis_cost [--server redis-server]

First table: packing. Microseconds to pack and to unpack, bytes stored, for each stream, codec and
batch size. Second table: Redis itself, append-only file on: CPU a certificate for the look-up
before parsing and for publishing, memory of the streams and of the marks, with `dedup.by`
certificate and issuance.

The certificates are the twenty real ones of the fixtures with whatever a real certificate does
not share with others replaced by random bytes: serial, key, key id, signatures, names. Times are
CPU times.
"""

import argparse
import asyncio
import json
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import STREAMS, WINDOW_MS, DedupBy, Keys
from certbus.logs.leases import Leases
from certbus.store import script_text
from certbus.streams.batch import Batch, Published
from certbus.streams.codec import LEVEL, Codec, Name
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse import rfc6962
from ctparse.entry import Entry
from ctparse.wire_messages import Message, MessageWriter, Source
from launcher.runtime.embedded_redis import EmbeddedRedis, find_executable

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "ct_entries.json"
BATCH_SIZES = (16, 64, 256)
CODECS: tuple[tuple[Name, int], ...] = (
    ("none", 0),
    *(("zstd", level) for level in (-5, -3, -1, 1, 2, 3, 5)),
)
REDIS_CODECS: tuple[tuple[Name, int, DedupBy], ...] = (
    ("none", 0, "certificate"),
    ("zstd", LEVEL, "certificate"),
    ("zstd", LEVEL, "issuance"),
)
# Marks as publish.lua makes them, in an earlier window (ARGV[3] windows ago); if ARGV[5] is 1, of
# issuances, which have no SHA-1.
FILL = """
local window, digests = window_at(now_ms()) - ARGV[3], ARGV[4]
local filter, place = filter_key(ARGV[1], window), '1779302892000-0-128'
for offset = 0, #digests - 52, 52 do
  local bit = filter_bit(digests, offset)
  local key = bucket(filter, bucket_number(bit))
  redis.call('HSET', key, field(digests, offset), place)
  if redis.call('HLEN', key) == 1 then
    redis.call('PEXPIRE', key, 3600000)
  end
  redis.call('SETBIT', filter, bit, 1)
  if ARGV[5] == '0' then
    key = filter_key(ARGV[2], window) .. ':' .. byte(digests, offset + 33)
    redis.call('RPUSH', key, sub(digests, offset + 34, offset + 42), place)
  end
end
"""
DISTINCT = 2048
RATE = 700  # new certificates a second, of all public logs
ROUNDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", default=None, help="redis-server to measure")
    parser.add_argument("--only", choices=("codec", "redis"))
    arguments = parser.parse_args()
    messages = distinct_messages(DISTINCT)
    sizes = {name: sum(len(getattr(m, name)) for m in messages) // DISTINCT for name in STREAMS}
    print("bytes a message:", ", ".join(f"{name} {size}" for name, size in sizes.items()))
    if arguments.only != "redis":
        measure_codecs(messages)
    if arguments.only != "codec":
        asyncio.run(measure_redis(messages, arguments.server or find_executable()))


def distinct_messages(count: int, seed: int = 1) -> list[Message]:
    """Make messages of which no two share more than real ones do."""
    chance = random.Random(seed)
    entries = [entry for entry, _ in _real_entries()]
    unshared = [list(_unshared(entry.certificate)) for entry in entries]
    source = Source("bench", "https://log.example/", "bench", "rfc6962")
    writer = MessageWriter(
        source,
        lambda index: f"https://log.example/ct/v1/get-entries?start={index}&end={index}",
        rfc6962.chain_certificates,
    )
    messages = []
    for number in range(count):
        which = chance.randrange(len(entries))
        der = entries[which].certificate
        for part, is_name in unshared[which]:
            der = der.replace(part, _like(part, chance) if is_name else chance.randbytes(len(part)))
        entry = msgspec.structs.replace(
            entries[which],
            certificate=der,
            index=1_111_014_090 + number,
            timestamp=1_779_302_892_000 + number * 3 + chance.randrange(3),
        )
        seen = 1_779_302_893 + number / 700
        messages.append(writer.write(entry, sha256(der).digest(), seen))
    return messages


def _real_entries() -> Iterator[tuple[Entry, str]]:
    for fixture in json.loads(FIXTURE.read_bytes()):
        body = json.dumps(
            {"entries": [{key: fixture[key] for key in ("leaf_input", "extra_data")}]}
        ).encode()
        (entry,) = rfc6962.decode_entries(body, int(fixture["cert_index"]))
        assert isinstance(entry, Entry)
        yield entry, fixture["name"]


def _unshared(der: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the parts of a certificate that are its own, and whether they are names."""
    certificate = x509.load_der_x509_certificate(der)
    yield certificate.serial_number.to_bytes(20, "big").lstrip(b"\0")[1:], False
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        yield key.public_numbers().n.to_bytes(key.key_size // 8, "big")[1:], False
    elif isinstance(key, ec.EllipticCurvePublicKey):
        yield key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:], False
    yield certificate.signature[-32:], False
    yield certificate.signature[8:-34], False
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectKeyIdentifier):
            yield value.digest, False
        elif isinstance(value, x509.PrecertificateSignedCertificateTimestamps):
            for sct in value:
                yield sct.signature[-30:], False
                yield sct.signature[6:36], False
        elif isinstance(value, x509.SubjectAlternativeName):
            labels = {
                label
                for name in value.get_values_for_type(x509.DNSName)
                for label in name.split(".")[:-1]
                if len(label) > 3
            }
            for label in sorted(labels, key=len, reverse=True):
                yield label.encode(), True


def _like(name: bytes, chance: random.Random) -> bytes:
    return "".join(chance.choices(string.ascii_lowercase, k=len(name))).encode()


def measure_codecs(messages: Sequence[Message]) -> None:
    print("\ncodec    batch stream    pack µs  unpack µs  bytes   (each a certificate)")
    for name, level in CODECS:
        for size in BATCH_SIZES:
            totals = [0.0, 0.0, 0.0]
            for stream in STREAMS:
                texts = [getattr(message, stream) for message in messages]
                cost = _codec_cost(Codec(name, level), texts, size)
                totals = [total + part for total, part in zip(totals, cost, strict=True)]
                print(f"{name:>4} {level:>2}  {size:>5} {stream:<8}", _columns(cost))
            print(f"{name:>4} {level:>2}  {size:>5} {'all':<8}", _columns(totals))


def _columns(cost: Sequence[float]) -> str:
    return f"{cost[0]:8.2f} {cost[1]:10.2f} {cost[2]:6.0f}"


def _codec_cost(codec: Codec, texts: list[bytes], size: int) -> tuple[float, float, float]:
    batches = [texts[i : i + size] for i in range(0, len(texts), size)]
    packed = [codec.pack(batch) for batch in batches]
    for blob, batch in zip(packed, batches, strict=True):
        assert codec.unpack(codec.name, blob) == batch

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(ROUNDS):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times) * 1e6 / len(texts)

    return (
        best(lambda: [codec.pack(batch) for batch in batches]),
        best(lambda: [codec.unpack(codec.name, blob) for blob in packed]),
        sum(map(len, packed)) / len(texts),
    )


async def measure_redis(messages: list[Message], executable: str) -> None:
    print(f"\n{executable}")
    with tempfile.TemporaryDirectory() as state:
        async with (
            EmbeddedRedis(Path(state), executable=executable) as server,
            connect(server.url) as client,
        ):
            # A rewrite of the append-only file, now and then, would fall on one row or another.
            await client.config_set("auto-aof-rewrite-percentage", 0)
            await fill_windows(client, (0.5, 0.5, 0.5))
            print(
                "codec    batch  known µs  publish µs  AOF B  streams B  dedup.by  "
                "(each a certificate)"
            )
            for name, level, dedup in REDIS_CODECS:
                if dedup == "issuance":
                    await fill_windows(client, (0.5, 0.5, 0.5), issuances=True)
                for size in BATCH_SIZES:
                    cost = await _redis_cost(client, messages, name, level, size, dedup)
                    columns = "  ".join(f"{part:8.1f}" for part in cost)
                    print(f"{name:>4} {level:>2}  {size:>5}  {columns}  {dedup}", flush=True)


async def fill_windows(client: Redis, shares: Sequence[float], *, issuances: bool = False) -> None:
    """Put marks into the newest windows, the newest first: what share of a window's at RATE."""
    fill = client.register_script(script_text("lua/marks.lua") + FILL)
    before = (await client.info("memory"))["used_memory"]
    keys, marks = Keys(), 0
    for age, share in enumerate(shares):
        for _ in range(int(share * RATE * WINDOW_MS / 1000) // 4096):
            await fill(
                keys=[],
                args=[
                    keys.marks,
                    keys.sha1_marks,
                    age,
                    random.randbytes(4096 * 52),
                    int(issuances),
                ],
            )
            marks += 4096
    used = (await client.info("memory"))["used_memory"] - before
    kind = "of issuances" if issuances else "with SHA-1 index"
    print(f"{marks} marks {kind}: {used / marks:.1f} bytes each, at {RATE} a second")


async def _redis_cost(
    client: Redis, messages: list[Message], codec: Name, level: int, size: int, dedup: DedupBy
) -> tuple[float, ...]:
    keys = Keys()
    settings = PublisherSettings(codec=codec, level=level, dedup=dedup)
    publisher = Publisher(client, keys, settings, Trimmer(client, keys).free_bytes)
    await publisher.configure()
    log_id = f"{codec}-{size}-{dedup}"
    lease = await Leases(client, keys, "bench", 3600).acquire(log_id, 0)
    assert lease is not None
    count = 32 * 1024
    asking = await _cost_of_info(client)
    known, publish = -asking * (count // size), -asking * (count // size)
    before = await client.info()
    for first in range(0, count, size):
        batch = [
            msgspec.structs.replace(
                messages[(first + position) % len(messages)],
                sha256=random.randbytes(32),
                sha1=random.randbytes(20),
                tbs_sha256=random.randbytes(32),
            )
            for position in range(size)
        ]
        start = _cpu(await client.info("cpu"))
        await publisher.find_known([message.sha256 for message in batch])
        middle = _cpu(await client.info("cpu"))
        outcome = await publisher.publish(lease, Batch(first, first + size, batch, 0, []))
        known, publish = known + middle - start, publish + _cpu(await client.info("cpu")) - middle
        assert isinstance(outcome, Published)
    after = await client.info()
    streams = 0
    for name in STREAMS:
        streams += await client.memory_usage(keys.stream(name), samples=0) or 0
    await client.delete(*map(keys.stream, STREAMS))
    return (
        known * 1e6 / count,
        publish * 1e6 / count,
        (after["aof_current_size"] - before["aof_current_size"]) / count,
        streams / count,
    )


async def _cost_of_info(client: Redis) -> float:
    start = _cpu(await client.info("cpu"))
    for _ in range(999):
        await client.info("cpu")
    return (_cpu(await client.info("cpu")) - start) / 1000


def _cpu(info: dict[str, float]) -> float:
    return info["used_cpu_user"] + info["used_cpu_sys"]


if __name__ == "__main__":
    main()
