from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.invariants import broken
from tests.e2e.site import Site


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """An empty deployment, in which every invariant must hold after the test.

    A failure report contains the logs of its processes.
    """
    opened = Site(tmp_path)
    try:
        yield opened
        assert await opened.denied_by_redis() == []
        assert await broken(opened) == []
    finally:
        await opened.close()
        request.node.add_report_section("teardown", "processes", opened.report())
