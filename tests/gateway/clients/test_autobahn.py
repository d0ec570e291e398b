"""RFC 6455 by cases 1 to 7 of the Autobahn test suite; `test_autobahn_messages.py` has the others.

The docstring of a test names its cases. A case runs over a socket, and in memory in one read and in
reads of one byte: the suite sends some cases "in one chop" and others "in octet-wise chops".

Differences from the suite, which the RFC permits and the suite counts as non-strict:

- 3.2 to 3.4, 4.1.3 to 4.1.5, 4.2.3 to 4.2.5 and 5.15: a message that is read together with the
  violation after it is not returned (`before` of `check_failure`). Read earlier, it is returned.
- 6.4.1 to 6.4.4: UTF-8 is checked when a message is whole. Its connection fails with 1007, but not
  before the end of the message.

The suite has no cases 8 and 11.
"""

import struct
from collections.abc import Sequence

import pytest

from tests.gateway.client_helpers import masked
from tests.gateway.clients.echo_server import CLOSE, Echo, Frames

CONT, TEXT, BINARY, PING, PONG = 0, 1, 2, 9, 10
HELLO = b"Hello, world!"
NOT_UTF8 = bytes.fromhex("00fffefdfcfb00ff")
GREEK = bytes.fromhex("cebae1bdb9cf83cebcceb5")
NORMAL = struct.pack("!H", 1000)


def returned(opcode: int, payload: bytes = b"") -> tuple[int, bytes]:
    """Return a frame of the server: a whole message, or a control frame."""
    return 0x80 | opcode, payload


def closed(code: int = 1000) -> tuple[int, bytes]:
    """Return a close frame of the server."""
    return CLOSE, struct.pack("!H", code)


def closing(code: int, reason: bytes = b"") -> bytes:
    """Encode a close frame of the client."""
    return masked(8, struct.pack("!H", code) + reason)


def fragments(opcode: int, parts: Sequence[bytes]) -> bytes:
    """Encode a message in fragments."""
    last = len(parts) - 1
    return b"".join(
        masked(CONT if number else opcode, part, fin=number == last)
        for number, part in enumerate(parts)
    )


def in_bytes(text: bytes) -> list[bytes]:
    return [text[position : position + 1] for position in range(len(text))]


async def check_answers(echo: Echo, sent: bytes, answers: Frames, sizes: Sequence[int]) -> None:
    """Check the answers to what is valid; the server closes only after the client."""
    assert await echo.over_socket(sent, len(answers)) == [*answers, closed()]
    for size in sizes:
        assert await echo.in_reads(sent, size) == answers, size


async def check_failure(echo: Echo, sent: bytes, code: int, before: Frames | None = None) -> None:
    """Check that the server fails the connection, and answers nothing after that.

    Args:
        echo: the server.
        sent: what contains a violation.
        code: of its close frame.
        before: the answers to what precedes the violation, which a violation in the same read
            suppresses.
    """
    strict: Frames = [*(before or []), closed(code)]
    assert await echo.in_reads(sent, 1) == strict
    together = await echo.in_reads(sent, len(sent))
    assert together in (strict, [closed(code)])
    assert await echo.over_socket(sent) in (strict, [closed(code)])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_messages_of_each_length(echo: Echo, opcode: int) -> None:
    """1.1.1 to 1.2.8."""
    for size in (0, 125, 126, 127, 128, 65_535, 65_536):
        payload = (b"*" if opcode == TEXT else b"\xfe") * size
        sizes = (1, 997, 1 << 17) if size < 1000 else (997, 1 << 17)
        await check_answers(echo, masked(opcode, payload), [returned(opcode, payload)], sizes)


@pytest.mark.parametrize("payload", [b"", HELLO, NOT_UTF8, b"\xfe" * 125])
async def test_a_ping_is_answered_with_its_payload(echo: Echo, payload: bytes) -> None:
    """2.1 to 2.4, and 2.6."""
    await check_answers(echo, masked(PING, payload), [returned(PONG, payload)], (1, 1000))


async def test_a_ping_of_126_bytes_is_a_violation(echo: Echo) -> None:
    """2.5."""
    await check_failure(echo, masked(PING, b"\xfe" * 126), 1002)


async def test_pongs_that_nothing_requested_are_ignored(echo: Echo) -> None:
    """2.7 to 2.9."""
    for sent in (masked(PONG), masked(PONG, b"unsolicited pong payload")):
        await check_answers(echo, sent, [], (1, 1000))
        pinged = sent + masked(PING, b"ping payload")
        await check_answers(echo, pinged, [returned(PONG, b"ping payload")], (1, 1000))


async def test_ten_pings_have_ten_pongs(echo: Echo) -> None:
    """2.10 and 2.11."""
    payloads = [b"payload-%d" % number for number in range(10)]
    sent = b"".join(masked(PING, payload) for payload in payloads)
    await check_answers(echo, sent, [returned(PONG, each) for each in payloads], (1, 1000))


@pytest.mark.parametrize("rsv", range(1, 8))
async def test_reserved_bits_are_violations(echo: Echo, rsv: int) -> None:
    """3.1 to 3.7, with each kind of frame: the suite has one kind for each value."""
    for opcode, payload in ((TEXT, HELLO), (BINARY, NOT_UTF8), (PING, HELLO), (8, NORMAL)):
        wrong = masked(opcode, payload, rsv=rsv) + masked(PING)
        await check_failure(echo, wrong, 1002)
        await check_failure(echo, masked(TEXT, HELLO) + wrong, 1002, [returned(TEXT, HELLO)])
    later = masked(TEXT, b"a", fin=False) + masked(CONT, b"b", rsv=rsv)
    await check_failure(echo, later, 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
async def test_reserved_opcodes_are_violations(echo: Echo, opcode: int) -> None:
    """4.1.1 to 4.2.5."""
    for payload in (b"", HELLO):
        wrong = masked(opcode, payload) + masked(PING)
        await check_failure(echo, wrong, 1002)
        await check_failure(echo, masked(TEXT, HELLO) + wrong, 1002, [returned(TEXT, HELLO)])


@pytest.mark.parametrize("opcode", [PING, PONG, 8])
async def test_a_fragmented_control_frame_is_a_violation(echo: Echo, opcode: int) -> None:
    """5.1 and 5.2."""
    await check_failure(echo, fragments(opcode, [NORMAL, b"fragment2"]), 1002)


async def test_a_message_in_fragments_is_returned_whole(echo: Echo) -> None:
    """5.3 to 5.8, 5.19 and 5.20: pings between the fragments are answered first."""
    parts = [b"fragment%d" % number for number in range(5)]
    sent = masked(TEXT, parts[0], fin=False)
    pongs: Frames = []
    for number in range(1, 5):
        assert await echo.in_reads(sent, 1) == pongs, "no pong waits for the message"
        sent += masked(PING, b"ping %d" % number)
        sent += masked(CONT, parts[number], fin=number == 4)
        pongs.append(returned(PONG, b"ping %d" % number))
    await check_answers(echo, sent, [*pongs, returned(TEXT, b"".join(parts))], (1, 20, 1000))
    for opcode in (TEXT, BINARY):
        whole = [returned(opcode, b"".join(parts))]
        await check_answers(echo, fragments(opcode, parts), whole, (1, 1000))


@pytest.mark.parametrize("fin", [True, False])
async def test_a_continuation_of_no_message_is_a_violation(echo: Echo, fin: bool) -> None:
    """5.9 to 5.17."""
    wrong = masked(CONT, b"non-continuation payload", fin=fin)
    await check_failure(echo, wrong + masked(TEXT, HELLO), 1002)
    message = fragments(TEXT, [b"fragment1", b"fragment2"])
    await check_failure(echo, (wrong + message) * 2, 1002)
    whole = [returned(TEXT, b"fragment1fragment2")]
    await check_failure(echo, message + wrong + masked(TEXT, b"fragment4"), 1002, whole)


async def test_a_message_within_a_message_is_a_violation(echo: Echo) -> None:
    """5.18."""
    for opcode in (TEXT, BINARY):
        sent = masked(TEXT, b"fragment1", fin=False) + masked(opcode, b"fragment2")
        await check_failure(echo, sent, 1002)


async def test_empty_fragments_have_no_effect(echo: Echo) -> None:
    """6.1.1 to 6.1.3."""
    for parts in ([b""], [b"", b"", b""], [b"", b"middle frame payload", b""]):
        whole = [returned(TEXT, b"".join(parts))]
        await check_answers(echo, fragments(TEXT, parts), whole, (1, 1000))


async def test_a_fragment_may_end_within_a_character(echo: Echo) -> None:
    """6.2.1 to 6.2.4."""
    for text in (b"Hello-\xc2\xb5@\xc3\x9f\xc3\xb6\xc3\xa4-UTF-8!!", GREEK):
        whole = [returned(TEXT, text)]
        await check_answers(echo, fragments(TEXT, in_bytes(text)), whole, (1, 1000))
        for position in range(len(text) + 1):
            halves = fragments(TEXT, [text[:position], text[position:]])
            assert await echo.in_reads(halves, 1) == whole


SURROGATE = GREEK + b"\xed\xa0\x80edited"
BEYOND = GREEK + b"\xf4\x90\x80\x80edited"


async def test_a_message_that_is_not_utf8_fails(echo: Echo) -> None:
    """6.3.1 to 6.4.4, in every two fragments; 6.4 sends the rest after a pause."""
    for text in (SURROGATE, BEYOND):
        await check_failure(echo, masked(TEXT, text), 1007)
        await check_failure(echo, fragments(TEXT, in_bytes(text)), 1007)
        for position in range(len(text) + 1):
            halves = fragments(TEXT, [text[:position], text[position:]])
            assert await echo.in_reads(halves + masked(TEXT, HELLO), 1) == [closed(1007)]
        await check_answers(echo, masked(BINARY, text), [returned(BINARY, text)], (1,))


VALID = [
    *(b"hello$world", b"hello\xc2\xa2world", b"hello\xe2\x82\xacworld"),  # 6.5
    *(b"hello\xf0\xa4\xad\xa2world", GREEK),
    *(GREEK[:end] for end in (2, 5, 7, 9, 11)),  # 6.6
    *(b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"),  # 6.7
    *(b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"),  # 6.9
    *(b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd"),  # 6.11
    *(chr(plane << 16 | low).encode() for plane in range(17) for low in (0xFFFE, 0xFFFF)),  # 6.22
    *(chr(special).encode() for special in range(0xFFF9, 0x10000)),  # 6.23
]
WITHOUT_END = [
    *(b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80"),
    *(b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"),
]
SURROGATES = [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf"]
LOW_SURROGATES = [b"\xed\xb0\x80", b"\xed\xbe\x80", b"\xed\xbf\xbf"]
INVALID = [
    *(GREEK[:end] for end in (1, 3, 4, 6, 8, 10)),  # 6.6
    *(b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"),  # 6.8
    *(b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"),  # 6.10
    b"\xf4\x90\x80\x80",  # 6.11
    *((b"\x80\xbf" * 3)[:size] for size in range(1, 7)),  # 6.12
    *(b"\xbf", bytes(range(0x80, 0xBF))),
    *(bytes([first, 0x20]) for first in range(0xC0, 0xFE)),  # 6.13
    *WITHOUT_END,  # 6.14
    b"".join(WITHOUT_END),  # 6.15
    *(b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"),  # 6.16
    *(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf"),  # 6.17
    *(b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"),
    *(b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"),  # 6.18
    *(b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf"),
    *(b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80"),  # 6.19
    *(b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80"),
    *SURROGATES,  # 6.20
    *LOW_SURROGATES,
    *(high + low for high in SURROGATES for low in LOW_SURROGATES),  # 6.21
]


async def test_utf8_sequences(echo: Echo) -> None:
    """6.5 to 6.23: each in one frame, and in fragments of one byte."""
    for text in VALID:
        for sent in (masked(TEXT, text), fragments(TEXT, in_bytes(text))):
            assert await echo.in_reads(sent, 1) == [returned(TEXT, text)], text
    for text in INVALID:
        for sent in (masked(TEXT, text), fragments(TEXT, in_bytes(text))):
            assert await echo.in_reads(sent, 1) == [closed(1007)], text
    sent = b"".join(masked(TEXT, text) for text in VALID)
    await check_answers(echo, sent, [returned(TEXT, text) for text in VALID], (1, 997))


@pytest.mark.parametrize(
    "after", [masked(8), closing(1001), masked(PING), masked(TEXT, HELLO), b"\xff" * 20]
)
async def test_nothing_is_read_after_a_close_frame(echo: Echo, after: bytes) -> None:
    """7.1.2 to 7.1.4; `check_answers` closes after a message, as 7.1.1."""
    sent = closing(1000) + after
    assert await echo.over_socket(sent) == [closed()]
    for size in (1, 1000):
        assert await echo.in_reads(sent, size) == [closed()]


async def test_a_close_frame_within_a_message(echo: Echo) -> None:
    """7.1.5."""
    sent = masked(TEXT, b"fragment1", fin=False) + closing(1000) + masked(CONT, b"fragment2")
    assert await echo.over_socket(sent) == [closed()]
    for size in (1, 1000):
        assert await echo.in_reads(sent, size) == [closed()]


async def test_a_close_frame_right_after_messages(echo: Echo) -> None:
    """7.1.6: how much of the messages is returned is not defined; their order is."""
    payload = b"BAsd7&jh23" * 26_214
    sent = masked(TEXT, payload) + masked(TEXT, HELLO) + closing(1000) + masked(PING)
    for size in (4096, 65_536, len(sent)):
        *before, last = await echo.in_reads(sent, size)
        assert last == closed()
        assert before == [returned(TEXT, payload), returned(TEXT, HELLO)][: len(before)]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (masked(8), b""),  # 7.3.1
        (masked(8, b"a"), b"\x03\xea"),  # 7.3.2
        (closing(1000), NORMAL),  # 7.3.3
        (closing(1000, b"Hello World!"), NORMAL),  # 7.3.4
        (closing(1000, b"*" * 123), NORMAL),  # 7.3.5
        (closing(1000, b"*" * 124), b"\x03\xea"),  # 7.3.6
        (closing(1000, SURROGATE), b"\x03\xef"),  # 7.5.1
        (closing(1000, BEYOND), b"\x03\xef"),
        (closing(1000, GREEK[:-1]), b"\x03\xef"),
    ],
)
async def test_the_payload_of_a_close_frame(echo: Echo, sent: bytes, answer: bytes) -> None:
    assert await echo.over_socket(sent) == [(CLOSE, answer)]
    for size in (1, 1000):
        assert await echo.in_reads(sent, size) == [(CLOSE, answer)]


async def test_codes_of_close_frames(echo: Echo) -> None:
    """7.7.1 to 7.13.2: the code is returned, or 1002 if none may be sent (RFC 6455 section 7.4)."""
    sendable = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    limits = (2000, 2999, 3000, 3999, 4000, 4999, 5000, 65_535)
    for code in (0, 1, 999, *range(1000, 1020), 1100, *limits):
        expected = [closed(code if code in sendable else 1002)]
        assert await echo.over_socket(closing(code)) == expected, code
        assert await echo.in_reads(closing(code), 1) == expected, code
