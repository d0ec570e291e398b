"""DER (X.690), read leniently: the few primitives with which every other file walks a certificate.

Nothing is copied before it is needed: the functions take the whole buffer and speak in offsets. A
length is believed in two places, `header` for one value and `children` for many, and neither
believes one that leaves what contains it, so no walk can run out of the value it is in.

Lenient means: lengths and integers need not be minimal, and strings may hold what their type
forbids. Indefinite lengths are errors. Tags of several bytes do not occur in certificates; their
first byte is no tag that a caller requests.
"""

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

# Longer ones do not exist; the limit keeps hostile ones from becoming numbers of a million digits.
_MAX_OID_BYTES = 128

# How the octets of a string type become text. UTF-8 is used for each type that contains ASCII;
# what is not UTF-8 was most likely meant as Latin-1, as TeletexString always is in practice.
_STRING_CODECS = {
    0x04: "utf-8",  # OCTET STRING, and the two below: no string types, but found as such
    0x17: "utf-8",  # UTCTime
    0x18: "utf-8",  # GeneralizedTime
    0x0C: "utf-8",  # UTF8String
    0x12: "utf-8",  # NumericString
    0x13: "utf-8",  # PrintableString
    0x14: "utf-8",  # TeletexString
    0x15: "utf-8",  # VideotexString
    0x16: "utf-8",  # IA5String
    0x19: "utf-8",  # GraphicString
    0x1A: "utf-8",  # VisibleString
    0x1B: "utf-8",  # GeneralString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


class DerError(ValueError):
    """The bytes are not the expected DER. The text states what is wrong, and at which byte."""


def header(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Read the tag and length at `at`, inside a value that ends at `end`.

    Returns:
        The tag byte, and the offsets where the contents start and stop.

    Raises:
        DerError: there is no complete value before `end`.
    """
    start = at + 2
    if start > end:
        raise DerError(f"no value at byte {at}")
    length = data[at + 1]
    if length > 0x7F:
        start, length = _long_length(data, at, end)
    stop = start + length
    if stop > end:
        raise DerError(f"value at byte {at} does not fit into what contains it")
    return data[at], start, stop


def _long_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Read a length of the long form; gives one that fits nowhere if it cannot be read."""
    size = data[at + 1] & 0x7F
    start = at + 2 + size
    if start > end or not 1 <= size <= 4:
        return end, 1
    if size == 2:
        return start, data[at + 2] << 8 | data[at + 3]
    return start, int.from_bytes(data[at + 2 : start])


def expect(data: bytes, at: int, end: int, tag: int, what: str) -> tuple[int, int]:
    """Read a header that must have this tag; `what` names it in the error.

    Raises:
        DerError: no value here, or another one.
    """
    found, start, stop = header(data, at, end)
    if found != tag:
        raise DerError(f"{what}: expected tag {tag:#04x} at byte {at}, found {found:#04x}")
    return start, stop


def children(data: bytes, at: int, end: int) -> tuple[list[tuple[int, int, int]], int]:
    """Read header after header from `at`, as far as they make sense: `header` in a fast loop.

    Returns:
        For each value its tag and where its contents start and stop; and where the last one
        stopped, which is before `end` if what follows is no value.
    """
    found = []
    while at + 2 <= end:
        start = at + 2
        length = data[at + 1]
        if length == 0x82 and at + 4 <= end:  # the long form with two bytes, without a call
            length = data[at + 2] << 8 | data[at + 3]
            start = at + 4
        elif length > 0x7F:
            start, length = _long_length(data, at, end)
        stop = start + length
        if stop > end:
            break
        found.append((data[at], start, stop))
        at = stop
    return found, at


def only(value: bytes, tag: int, what: str) -> tuple[int, int]:
    """Read the header of the one value that `value` begins with; mostly it is all of it.

    Raises:
        DerError: it has another tag, or does not fit; `what` names it in the error.
    """
    size = len(value)
    if 2 <= size < 0x82 and value[0] == tag and value[1] == size - 2:
        return 2, size
    return expect(value, 0, size, tag, what)


def sequence(value: bytes, what: str) -> list[tuple[int, int, int]]:
    """Read the elements of a SEQUENCE; `what` names it in the error.

    Raises:
        DerError: it is no SEQUENCE, or not all of it can be read.
    """
    start, stop = only(value, SEQUENCE, what)
    found, at = children(value, start, stop)
    if at != stop:
        raise DerError(f"{what}: no value at byte {at}")
    return found


def dotted(contents: bytes) -> str:
    """Spell the contents of an OBJECT IDENTIFIER as text, like "2.5.4.3".

    Raises:
        DerError: it is empty, ends inside a number, or is absurdly long.
    """
    if not contents or contents[-1] & 0x80 or len(contents) > _MAX_OID_BYTES:
        raise DerError(f"bad object identifier {contents[:16].hex()}")
    numbers = []
    number = 0
    for byte in contents:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def text(tag: int, contents: bytes) -> str:
    """Read a string of any ASN.1 string type. Never fails on its octets; holds no lone surrogates.

    Raises:
        DerError: the tag is not that of a string type.
    """
    codec = _STRING_CODECS.get(tag)
    if codec is None:
        raise DerError(f"tag {tag:#04x} is not a string type")
    if codec == "utf-8":
        return ascii_text(contents)
    return contents.decode(codec, "replace")


def ascii_text(contents: bytes) -> str:
    """Read octets that should be ASCII: as UTF-8, or else as Latin-1, which never fails."""
    try:
        return contents.decode()
    except UnicodeDecodeError:
        return contents.decode("latin-1")
