from collections.abc import Iterator

import pytest

from tests.deploy.docker import Stack


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(running: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The demo stack, running. A failure report contains the logs of the services."""
    yield running
    request.node.add_report_section("teardown", "services", running.logs())
