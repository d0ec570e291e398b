"""How the messages of a batch are stored: joined by newlines, then packed.

`zstd` is one Zstandard frame that states its content size, so that a reader knows what it will
need before it decompresses. `none` is for reading a stream with redis-cli.
"""

from collections.abc import Sequence
from typing import Literal

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
        if name == "zstd":
            return self._decompress(blob)
        if name == "none":
            if len(blob) > MAX_UNPACKED:
                raise UndecodableBatch(f"has {len(blob)} bytes, more than {MAX_UNPACKED}")
            return blob
        raise UndecodableBatch(f"unknown codec {name!r}: written by a newer version?")

    def _decompress(self, blob: bytes) -> bytes:
        try:
            size = zstandard.frame_content_size(blob)
            if not 0 <= size <= MAX_UNPACKED:
                stated = "an unstated number of" if size < 0 else f"{size}"
                raise UndecodableBatch(f"unpacks to {stated} bytes, more than {MAX_UNPACKED}")
            return self._decompressor.decompress(blob)
        except zstandard.ZstdError as error:
            raise UndecodableBatch(f"damaged zstd frame of {len(blob)} bytes: {error}") from error
