"""The invariants that the fixture `site` checks."""

import pytest

from simlog.oracle.oracle import Delivery
from tests.e2e.invariants import differing_ids
from tests.e2e.site import FORMS


@pytest.mark.parametrize(
    ("ids", "differing"),
    [
        (["1-0-0 2-0-0", "1-0-0 2-0-0"], 0),
        (["1-0-0 2-0-0 3-0-0", "2-0-0 3-0-0"], 0),  # one stream was trimmed further
        (["1-0-0 2-0-0", ""], 0),
        (["9-0-0 10-0-0", "10-0-0"], 0),
        (["1-0-0 2-0-0 3-0-0", "1-0-0 3-0-0"], 1),
        (["1-0-0 2-0-0", "1-0-0 2-0-0 3-0-0"], 1),
    ],
)
def test_streams_hold_the_same_ids(ids: list[str], differing: int) -> None:
    streams = [
        Delivery(f"stream:{form}", form, [b'{"id":"%b"}' % each.encode() for each in held.split()])
        for form, held in zip(FORMS, ids, strict=False)
    ]
    assert len(differing_ids(streams)) == differing
