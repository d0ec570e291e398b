"""When the entries after the last full tile are read."""

from hypothesis import given
from hypothesis import strategies as st

from ingestor.pipeline.partial_tile import PartialTile

TILE = 256


def test_entries_wait_until_their_tile_is_full_or_the_time_has_passed() -> None:
    tile = PartialTile(TILE, 10.0)
    assert tile.limit(0, 300, 100.0) == 256
    assert tile.due(256) == 110.0
    assert tile.due(0) == 110.0, "they do not wait until the full tiles before them are read"
    assert tile.limit(256, 310, 109.9) == 256, "more entries do not extend the wait"
    assert tile.limit(256, 320, 110.0) == 320
    assert tile.due(256) is None, "they are read"
    assert tile.limit(256, 330, 110.1) == 320, "the next ones wait from when they are shown"
    assert tile.due(256) == 120.1, "not until those before them are read"
    assert tile.limit(320, 330, 111.0) == 320
    assert tile.limit(320, 600, 112.0) == 512, "full"
    assert tile.due(512) == 122.0


def test_no_entries_wait_below_a_head_that_ends_a_tile() -> None:
    tile = PartialTile(TILE, 10.0)
    assert tile.limit(768, 1000, 0.0) == 768
    assert tile.due(768) == 10.0
    assert tile.limit(768, 1024, 9.0) == 1024
    assert tile.due(768) is None


def test_without_a_proof_at_the_full_tile_the_rest_is_read() -> None:
    tile = PartialTile(TILE, 10.0)
    assert tile.limit(0, 300, 0.0) == 256
    tile.release()
    assert tile.limit(0, 300, 0.0) == 300


@given(
    next_index=st.integers(0, 2000),
    more=st.integers(0, 2000),
    now=st.floats(0, 100),
    wait=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([None, TILE]),
)
def test_only_entries_of_the_newest_tile_wait_and_not_for_ever(
    next_index: int, more: int, now: float, wait: float, size: int | None
) -> None:
    tile, shown = PartialTile(size, wait), next_index + more
    limit = tile.limit(next_index, shown, now)
    assert next_index <= limit <= shown
    assert shown - limit < TILE
    assert limit in (shown, next_index) or limit % TILE == 0
    if not (wait and size):
        assert limit == shown
    assert tile.limit(next_index, shown, now + 2 * wait) == shown
