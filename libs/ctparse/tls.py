"""TLS presentation language (RFC 5246 section 4): the vectors that CT's structures are made of.

`opaque certificate<1..2^24-1>` is three bytes of length and as many bytes of contents. Whoever
reads a structure checks that its last vector ends where the structure ends.
"""


class StructureError(ValueError):
    """A structure does not hold together. Says which part, and what is wrong with it."""


def vector(data: bytes, at: int, length_bytes: int, what: str) -> tuple[int, int]:
    """Read the length of a vector at `at`: where its contents start and stop.

    Raises:
        StructureError: it goes on beyond the end of `data`; `what` names it.
    """
    start = at + length_bytes
    stop = start + int.from_bytes(data[at:start])
    if stop > len(data):
        raise StructureError(f"{what} at byte {at} goes on {stop - len(data)} bytes too far")
    return start, stop


def ends(data: bytes, at: int, what: str) -> None:
    """Make sure that nothing follows.

    Raises:
        StructureError: something does.
    """
    if at != len(data):
        raise StructureError(f"{len(data) - at} bytes follow {what}")
