from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.site import Site


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """An empty deployment, whose logs must have accounts that add up after the test.

    A failure report contains the logs of its processes.
    """
    opened = Site(tmp_path)
    try:
        yield opened
        assert await opened.denied_by_redis() == []
        assert await opened.wrong_accounts() == []
    finally:
        await opened.close()
        request.node.add_report_section("teardown", "processes", opened.report())
