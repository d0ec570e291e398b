from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.site import Site


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """An empty deployment. When the test fails, what its processes said is part of the report."""
    opened = Site(tmp_path)
    try:
        yield opened
    finally:
        await opened.close()
        request.node.add_report_section("teardown", "processes", opened.report())
