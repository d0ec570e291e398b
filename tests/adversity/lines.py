"""What Redis held, from its append-only files: the truth that clients are judged by. Pure.

A *line* is one history of Redis: what one append-only file records. Redis that is restarted
continues its line; one that is emptied, or replaced by a copy that is behind, begins another one.
Every write that Redis answered, or showed to any reader, is in the file, because Redis writes the
file before it answers (`appendfsync no` is about the disk, not about the file). The file is never
rewritten here, so it also has what was trimmed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import hiredis
import msgspec

from certbus.keys import STREAMS, Keys
from certbus.streams.codec import Codec
from ctparse.merkle import Frontier
from simlog.oracle.check_message import GroundTruth
from tests.adversity.clients import passes

_CHUNK: Final = 1 << 20
_COUNTERS: Final = (b"published", b"duplicates", b"rejected", b"skipped")


class Held(msgspec.Struct, frozen=True, gc=False):
    """One message.

    Attributes:
        id: as clients get it.
        sha256: of its certificate.
        names: its DNS names.
    """

    id: str
    sha256: str
    names: tuple[str, ...]


FORGED: Final = b"the leaf does not commit to this precertificate"
"""In the record of a rejection: the log showed another precertificate than the one of the leaf."""


class Skip(msgspec.Struct, frozen=True, gc=False):
    """The entries [first, end) of a log that the server has not published, by its record.

    It has skipped them, or the log showed a forged precertificate.
    """

    log: str
    first: int
    end: int


@dataclass(frozen=True)
class Line:
    """One history of Redis.

    Attributes:
        name: of the directory, for people.
        messages: everything that was published, in order.
        retained: of each stream, the ids of the messages that it held at the end of the line.
        troubles: what the streams of one server never are.
        skips: of its logs.
        forged: (log, index) of each rejected entry that the log showed as a forged
            precertificate, also those whose record was trimmed.
        fences: entry id -> fence of the log's lease when the batch was published.
        times: entry id that was ahead of TIME -> TIME when the batch was published, ms.
    """

    name: str
    messages: tuple[Held, ...]
    retained: Mapping[str, frozenset[str]]
    troubles: tuple[str, ...] = ()
    skips: tuple[Skip, ...] = ()
    forged: frozenset[tuple[str, int]] = frozenset()
    fences: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Where in `messages` an id with a certificate is. Lines may give one id to two of them."""
        return {(held.id, held.sha256): place for place, held in enumerate(self.messages)}

    @cached_property
    def batches(self) -> dict[str, tuple[str, ...]]:
        """The certificates of each batch, by its entry id, in order."""
        found: dict[str, list[str]] = {}
        for held in self.messages:
            found.setdefault(entry_of(held.id), []).append(held.sha256)
        return {entry: tuple(certificates) for entry, certificates in found.items()}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Which batch of the line each entry id is, from 0."""
        return {entry: number for number, entry in enumerate(self.batches)}

    @cached_property
    def filtered(self) -> "Line":
        """The same line as if Redis had only what passes the filter of clients."""
        messages = tuple(held for held in self.messages if passes(held.names))
        return replace(self, messages=messages)


def read(directory: Path, truth: GroundTruth) -> Line:
    """Read the line that a data directory of Redis holds.

    Args:
        directory: with `appendonly.aof` (Redis 6.2) or `appendonlydir` (Redis 7).
        truth: what certificates there are.
    """
    keys = Keys()
    names = {keys.stream(stream).encode(): stream for stream in STREAMS}
    published: dict[str, list[Held]] = {stream: [] for stream in STREAMS}
    kept: dict[str, dict[str, int]] = {stream: {} for stream in STREAMS}  # entry id -> messages
    times: dict[str, int] = {}
    codec = Codec()
    troubles: list[str] = []
    logs = _Logs()
    for command in _committed(files(directory)):
        word = command[0].upper()
        if word == b"FLUSHALL" or len(command) < 2:
            continue
        logs.read(word, command)
        if command[1] not in names:
            continue
        stream = names[command[1]]
        if word == b"XADD":
            entry = command[2].decode()
            fields = dict(zip(command[3::2], command[4::2], strict=True))
            logs.published(entry, fields[b"log"].decode())
            if b"at" in fields:
                times[entry] = int(fields[b"at"])
            texts = codec.unpack(fields[b"codec"].decode(), fields[b"m"])
            kept[stream][entry] = len(texts)
            for position, text in enumerate(texts):
                message_id = f"{entry}-{position}"
                named = text.replace(b"{", b'{"id":"%b",' % message_id.encode(), 1)
                examined = truth.examine(stream, named)
                troubles += [f"{message_id} of {stream}: {why}" for why in examined.problems]
                if examined.uncommitted:
                    troubles.append(f"{message_id} of {stream}: {examined.uncommitted}")
                published[stream].append(Held(message_id, examined.sha256, examined.names))
        elif word == b"XTRIM":
            least = _order(command[-1].decode())
            for entry in [entry for entry in kept[stream] if _order(entry) < least]:
                del kept[stream][entry]
        elif word in (b"DEL", b"UNLINK"):
            kept[stream].clear()
        else:
            troubles.append(f"{word!r} of {stream}")
    ids = {stream: [held.id for held in messages] for stream, messages in published.items()}
    troubles += [
        f"{stream} has other ids than full" for stream in STREAMS if ids[stream] != ids["full"]
    ]
    return Line(
        directory.name,
        tuple(published["full"]),
        {
            stream: frozenset(
                f"{entry}-{n}" for entry, count in entries.items() for n in range(count)
            )
            for stream, entries in kept.items()
        },
        (*troubles, *logs.troubles),
        tuple(logs.skips),
        frozenset(logs.forged),
        logs.fences,
        times,
    )


class _Logs:
    """The logs of a line, as its commands change them."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.skips: list[Skip] = []
        self.forged: set[tuple[str, int]] = set()
        self.fences: dict[str, str] = {}
        self._prefix = Keys().log("").encode()
        self._rejected = Keys().rejected.encode()
        self._fields: dict[str, dict[bytes, bytes]] = {}  # by id

    def read(self, word: bytes, command: list[bytes]) -> None:
        """Read a command, if it concerns a log."""
        if command[1].startswith(self._prefix):
            self._change(word, command[1].removeprefix(self._prefix).decode(), command[2:])
        if word == b"XADD" and command[1] == self._rejected:
            fields = dict(zip(command[3::2], command[4::2], strict=True))
            if b"last" not in fields and FORGED not in fields[b"reason"]:
                return
            name, first = self._name(fields[b"log"].decode()), int(fields[b"index"])
            self.skips.append(Skip(name, first, int(fields.get(b"last", first)) + 1))
            if b"last" not in fields:
                self.forged.add((name, first))

    def _change(self, word: bytes, log_id: str, arguments: list[bytes]) -> None:
        """Change the fields of a log, which must have accounts that add up at any time."""
        log = self._fields.setdefault(log_id, {})
        if word in (b"DEL", b"UNLINK"):
            log.clear()
        elif word == b"HDEL":
            for name in arguments:
                log.pop(name, None)
        elif word == b"HSET":
            fields = dict(zip(arguments[::2], arguments[1::2], strict=True))
            log |= fields
            if b"next" in fields and b"start" in log:
                done = sum(int(log.get(name, b"0")) for name in _COUNTERS)
                if done != int(log[b"next"]) - int(log[b"start"]):
                    self.troubles.append(f"{self._name(log_id)}: {done} accounted: {log}")
            if (frontier := fields.get(b"frontier")) is not None:
                size, end = Frontier.from_bytes(frontier).size, int(log[b"next"])
                if size != end:  # scripts set `next` before it, in one transaction
                    self.troubles.append(f"{self._name(log_id)}: frontier {size}, next {end}")

    def published(self, entry: str, log_id: str) -> None:
        """Keep the fence that the log has when an entry is published."""
        self.fences[entry] = self._fields[log_id].get(b"fence", b"").decode()

    def _name(self, log_id: str) -> str:
        return self._fields[log_id].get(b"name", log_id.encode()).decode()


def entry_of(cursor: str) -> str:
    """The entry id in the id of a message or of a batch."""
    return "-".join(cursor.split("-")[:2])


def _order(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq or 0)


def files(directory: Path) -> list[Path]:
    """Return the append-only files in a data directory of Redis, in their order."""
    if (single := directory / "appendonly.aof").is_file():
        return [single]
    parts = (directory / "appendonlydir").glob("*.incr.aof")
    return sorted(parts, key=lambda path: int(path.name.split(".")[-3]))


def _committed(files: list[Path]) -> Iterator[list[bytes]]:
    """The commands that Redis executes when it loads the files: no transaction that is cut off."""
    transaction: list[list[bytes]] | None = None
    for command in _commands(files):
        match command[0].upper():
            case b"MULTI":
                transaction = []
            case b"EXEC":
                yield from transaction or ()
                transaction = None
            case _ if transaction is not None:
                transaction.append(command)
            case _:
                yield command


def _commands(files: list[Path]) -> Iterator[list[bytes]]:
    for path in files:
        reader = hiredis.Reader()
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    yield command
