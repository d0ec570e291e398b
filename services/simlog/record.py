"""The record of a world: every entry under its tree heads, one line of JSON each."""

from collections.abc import Iterable, Iterator

import msgspec


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """One entry of one log.

    Attributes:
        log: the log's name.
        index: position in the log, from 0.
        sha256: of the certificate, or of the precertificate as submitted; lowercase hex.
        is_precert: which of the two it is.
        timestamp: milliseconds since the epoch.
        names: its DNS names, the common name first if it has one, without repeats.
    """

    log: str
    index: int
    sha256: str
    is_precert: bool
    timestamp: int
    names: tuple[str, ...]


LINES_AT_ONCE = 512


def write(record: Iterable[Recorded]) -> Iterator[bytes]:
    """Encode as lines, some hundreds a piece."""
    encoder = msgspec.json.Encoder()
    piece: list[Recorded] = []
    for entry in record:
        piece.append(entry)
        if len(piece) == LINES_AT_ONCE:
            yield encoder.encode_lines(piece)
            piece.clear()
    if piece:
        yield encoder.encode_lines(piece)


def read(lines: bytes) -> list[Recorded]:
    """Decode what `write` made."""
    return msgspec.json.Decoder(Recorded).decode_lines(lines)
