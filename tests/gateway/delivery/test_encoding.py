import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from gateway.delivery import encoding


def parse(data: bytes) -> list[Frame]:
    """What the websockets library reads."""
    reader = StreamReader()
    reader.feed_data(data)
    found = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=False)
        try:
            next(parser)
        except StopIteration as stop:
            found.append(stop.value)
        else:
            pytest.fail("a frame is incomplete")
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_each_length_encoding_is_read_back(size: int) -> None:
    (frame,) = parse(encoding.websocket_frame(b"x" * size))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, b"x" * size)


messages = st.lists(st.integers(0, 70_000).map(lambda size: b'{"pad":"%b"}' % (b"x" * size)))


@given(messages, st.integers(0, 300))
def test_a_batch_is_one_frame_a_message_with_its_id(messages: list[bytes], first: int) -> None:
    parsed = parse(encoding.websocket_frames("17-3", first, messages))
    assert [bytes(frame.data) for frame in parsed] == [
        b'{"id":"17-3-%d",' % position + message[1:]
        for position, message in enumerate(messages, first)
    ]


def test_events_have_the_id_twice_and_a_message_a_line() -> None:
    assert encoding.sse_events("17-3", 4, [b'{"a":1}', b'{"b":2}']) == (
        b'id: 17-3-4\ndata: {"id":"17-3-4","a":1}\n\nid: 17-3-5\ndata: {"id":"17-3-5","b":2}\n\n'
    )


def test_events_have_no_line_breaks_but_their_own() -> None:
    """Some clients split lines where Unicode does, not where the format does."""
    names = "a\u0085b\u2028c\u2029d\\\u2028\u00e9\u20ac\U0001f512"
    message = msgspec.json.encode({"data": [names]})
    assert "\u2028" in message.decode(), "the character itself is in the message"
    sent = encoding.sse_events("1-0", 0, [message])
    lines = sent.decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["id", "data", ""]
    assert json.loads(lines[1].removeprefix("data: ")) == {"id": "1-0-0", "data": [names]}
    (notice, _) = encoding.sse_event(message).decode().splitlines()
    assert json.loads(notice.removeprefix("data: ")) == {"data": [names]}


@given(st.text())
def test_events_contain_the_same_as_frames(name: str) -> None:
    message = msgspec.json.encode({"data": [name]})
    (frame,) = parse(encoding.websocket_frames("1-0", 0, [message]))
    _, line, _ = encoding.sse_events("1-0", 0, [message]).split(b"\n", 2)
    assert json.loads(line.removeprefix(b"data: ")) == json.loads(bytes(frame.data))


def test_a_certificate_without_names_keeps_its_position_but_is_not_sent() -> None:
    batch = [
        b'{"message_type":"dns_entries","data":["a.example"]}',
        b'{"message_type":"dns_entries","data":[]}',
        b'{"message_type":"dns_entries","data":["b.example"]}',
    ]
    sent = [bytes(frame.data) for frame in parse(encoding.websocket_frames("1-0", 0, batch))]
    assert [payload.partition(b",")[0] for payload in sent] == [b'{"id":"1-0-0"', b'{"id":"1-0-2"']
    assert encoding.sse_events("1-0", 0, batch).count(b"data: ") == 2
