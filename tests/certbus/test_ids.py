import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbus.ids import Cursor, EntryId, message_id, parse_cursor, parse_entry_id

NUMBER = st.integers(0, 10**15)


@given(NUMBER, NUMBER)
def test_an_entry_id_is_read_as_it_is_written(ms: int, seq: int) -> None:
    assert parse_entry_id(str(EntryId(ms, seq))) == (ms, seq)


@given(NUMBER, NUMBER, st.integers(0, 255))
def test_a_message_id_is_a_cursor(ms: int, seq: int, position: int) -> None:
    text = message_id(str(EntryId(ms, seq)), position)
    assert parse_cursor(text) == Cursor(EntryId(ms, seq), position)


def test_ids_are_compared_as_numbers() -> None:
    assert parse_entry_id("9-0") < parse_entry_id("10-0")
    assert parse_entry_id("10-9") < parse_entry_id("10-10")


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("0", Cursor(EntryId(0, 0), None)),
        ("17", Cursor(EntryId(17, 0), None, is_moment=True)),
        ("17-3", Cursor(EntryId(17, 3), None)),
        ("17-3-0", Cursor(EntryId(17, 3), 0)),
    ],
)
def test_shorter_cursors(text: str, cursor: Cursor) -> None:
    assert parse_cursor(text) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1-",
        "1-2-",
        "1-2-3-4",
        "-1",
        "1-2-x",
        "$",
        "+",
        " 1",
        "1\n",
        "٣-0",
        "9" * 17,
        "1-2-99999",
    ],
)
def test_a_malformed_cursor_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ValueError, match="is not a cursor: expected <ms>-<seq>-<position>"):
        parse_cursor(text)


@given(st.text())
def test_any_text_is_a_cursor_or_an_error(text: str) -> None:
    try:
        cursor = parse_cursor(text)
    except ValueError:
        return
    assert cursor.entry >= (0, 0)
