"""TLS presentation language (RFC 5246 section 4): the vectors that CT's structures are made of.

`opaque certificate<1..2^24-1>` is three bytes of length and as many bytes of contents. The reader
of a structure checks that its last vector ends where the structure ends.
"""


class StructureError(ValueError):
    """A structure is inconsistent. The text names the part and what is wrong with it."""


def vector(data: bytes, at: int, length_bytes: int, what: str) -> tuple[int, int]:
    """Read the length of a vector at `at`: where its contents start and stop.

    Raises:
        StructureError: it exceeds `data`; `what` names it.
    """
    start = at + length_bytes
    stop = start + int.from_bytes(data[at:start])
    if stop > len(data):
        raise StructureError(f"{what} at byte {at} is {stop - len(data)} bytes too long")
    return start, stop


def ends(data: bytes, at: int, what: str) -> None:
    """Make sure that nothing follows.

    Raises:
        StructureError: something does.
    """
    if at != len(data):
        raise StructureError(f"{len(data) - at} bytes follow {what}")
