"""How the messages of a batch are stored: joined by newlines, then packed.

`zstd` is one Zstandard frame that states its content size, so that a reader knows what it will
need before it decompresses. `none` is for reading a stream with redis-cli.
"""

from collections.abc import Sequence
from typing import Literal, overload

import zstandard

Name = Literal["none", "zstd"]

LEVEL = 1
"""Of Zstandard. A certificate in batches of 256, all three forms: level 1 costs 9 µs and 1240
bytes, -1 8 µs and 1800, 3 12 µs and 1190; unpacking 5 to 7 µs (bench/redis_cost.py)."""

MAX_UNPACKED = 16 * 1024 * 1024
"""Bytes. Batches of at most 4 MiB are published; the rest is room for other publishers."""


MAX_MESSAGES = 10_000
"""In one batch: a cursor has at most four digits for a message's position. 256 are published."""


class UndecodableBatch(ValueError):
    """A stored batch does not match its codec. The text states in which way."""


class Codec:
    """Packs and unpacks batches. Holds compression contexts, so each thread needs its own."""

    def __init__(self, name: Name = "zstd", level: int = LEVEL) -> None:
        self.name = name
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor()

    def pack(self, messages: Sequence[bytes]) -> bytes:
        """Join and pack messages, none of which may contain a newline."""
        joined = b"\n".join(messages)
        return joined if self.name == "none" else self._compressor.compress(joined)

    def unpack(self, name: str, blob: bytes) -> list[bytes]:
        """Undo `pack`, whatever codec the packer had.

        Args:
            name: the codec that the blob was packed with.
            blob: what `pack` gave.

        Raises:
            UndecodableBatch: unknown codec, damaged blob, more than `MAX_UNPACKED` bytes or
                more than `MAX_MESSAGES` messages.
        """
        joined = self._joined(name, blob)
        # Search for the first 10,000 newlines, never for 16 MiB of them.
        messages = joined.split(b"\n", MAX_MESSAGES)
        if len(messages) > MAX_MESSAGES:
            raise UndecodableBatch(f"has more than {MAX_MESSAGES} messages")
        return messages

    def pick(self, name: str, blob: bytes, position: int) -> bytes | None:
        """Unpack one message alone: half the time of `unpack`.

        Args:
            name: the codec that the blob was packed with.
            blob: what `pack` gave.
            position: of the message; None is given if there are not that many.

        Raises:
            UndecodableBatch: unknown codec, damaged blob, or more than `MAX_UNPACKED` bytes.
        """
        joined = self._joined(name, blob)
        start = 0
        for _ in range(position):
            start = joined.find(b"\n", start) + 1
            if not start:
                return None
        end = joined.find(b"\n", start)
        return joined[start:] if end < 0 else joined[start:end]

    def _joined(self, name: str, blob: bytes) -> bytes:
        unpacked_bytes(name, blob)
        if name == "none":
            return blob
        try:
            return self._decompressor.decompress(blob)
        except zstandard.ZstdError as error:
            raise _damaged(blob, error) from error


def unpacked_bytes(name: str, blob: bytes) -> int:
    """Return the size of a blob after unpacking, as its first bytes state it.

    Raises:
        UndecodableBatch: unknown codec, no such size, or more than `MAX_UNPACKED` bytes.
    """
    if name == "none":
        if len(blob) > MAX_UNPACKED:
            raise UndecodableBatch(f"has {len(blob)} bytes, more than {MAX_UNPACKED}")
        return len(blob)
    if name != "zstd":
        raise UndecodableBatch(f"unknown codec {name!r}: written by a newer version?")
    try:
        size = zstandard.frame_content_size(blob)
    except zstandard.ZstdError as error:
        raise _damaged(blob, error) from error
    if not 0 <= size <= MAX_UNPACKED:
        stated = "an unstated number of" if size < 0 else f"{size}"
        raise UndecodableBatch(f"unpacks to {stated} bytes, more than {MAX_UNPACKED}")
    return size


def _damaged(blob: bytes, error: Exception) -> UndecodableBatch:
    return UndecodableBatch(f"damaged zstd frame of {len(blob)} bytes: {error}")


class PackedMessages(Sequence[bytes]):
    """The messages of a batch, unpacked when one of them is first read.

    Reading one raises `UndecodableBatch` if the blob cannot be unpacked, or has another number of
    messages.

    Args:
        codec: unpacks them.
        name: the codec that the blob was packed with.
        blob: what `Codec.pack` gave.
        count: number of messages.

    Attributes:
        size: bytes after unpacking.

    Raises:
        UndecodableBatch: the number or the stated size is not accepted.
    """

    def __init__(self, codec: Codec, name: str, blob: bytes, count: int) -> None:
        if not 0 < count <= MAX_MESSAGES:
            raise UndecodableBatch(f"has {count} messages: 1 to {MAX_MESSAGES} are accepted")
        self.size = unpacked_bytes(name, blob)
        self._codec = codec
        self._name = name
        self._blob = blob
        self._count = count
        self._texts: list[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if self._texts is None:
            texts = self._codec.unpack(self._name, self._blob)
            if len(texts) != self._count:
                raise UndecodableBatch(f"has {len(texts)} messages instead of {self._count}")
            self._texts, self._blob = texts, b""
        return self._texts[index]

    @property
    def is_unpacked(self) -> bool:
        """Whether a message was read."""
        return self._texts is not None


class PackedPart(Sequence[bytes]):
    """Consecutive messages of a batch, unpacked with it.

    Args:
        batch: all messages.
        first: index of the first one.
        end: index after the last one.
    """

    def __init__(self, batch: PackedMessages, first: int, end: int) -> None:
        self._batch = batch
        self._first = first
        self._end = end

    def __len__(self) -> int:
        return self._end - self._first

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return self._batch[self._first : self._end][index]
