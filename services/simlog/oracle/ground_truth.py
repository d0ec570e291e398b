"""The record of a world: every entry under its tree heads, one line of JSON each.

After them come the entries that a log showed and never committed to.
"""

from collections.abc import Iterable, Iterator

import msgspec

from simlog.ctlog.log import Entry


class TruthEntry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of one log.

    Attributes:
        log: the log's name.
        index: position in the log, from 0.
        sha256: of the certificate, or of the precertificate as submitted; lowercase hex.
        is_precert: which of the two it is.
        timestamp: milliseconds since the epoch.
        names: its DNS names, the common name first if it has one, without repeats.
        issuance: number of the certificate and its precertificate together.
        malformed: whether these bytes, which the log did commit to, are no certificate.
        misbehaviour: the kind of fault, if the log showed this and never committed to it.
    """

    log: str
    index: int
    sha256: str
    is_precert: bool
    timestamp: int
    names: tuple[str, ...]
    issuance: int = -1
    malformed: bool = False
    misbehaviour: str = ""


LINES_PER_PIECE = 512


def truth_entry(
    log: str, index: int, entry: Entry, *, malformed: bool = False, misbehaviour: str = ""
) -> TruthEntry:
    """Make the line about an entry of a log."""
    certificate = entry.certificate
    return TruthEntry(
        log=log,
        index=index,
        sha256=certificate.sha256.hex(),
        is_precert=certificate.is_precert,
        timestamp=entry.timestamp,
        names=certificate.names,
        issuance=certificate.number // 2,
        malformed=malformed,
        misbehaviour=misbehaviour,
    )


def write_jsonl(record: Iterable[TruthEntry]) -> Iterator[bytes]:
    """Encode as lines, some hundreds a piece."""
    encoder = msgspec.json.Encoder()
    piece: list[TruthEntry] = []
    for entry in record:
        piece.append(entry)
        if len(piece) == LINES_PER_PIECE:
            yield encoder.encode_lines(piece)
            piece.clear()
    if piece:
        yield encoder.encode_lines(piece)


def read_jsonl(lines: bytes) -> list[TruthEntry]:
    """Decode what `write` made."""
    return msgspec.json.Decoder(TruthEntry).decode_lines(lines)
