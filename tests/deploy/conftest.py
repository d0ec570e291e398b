from collections.abc import Iterator

import pytest

from tests.deploy.docker import Stack


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The demo stack, running. When a test fails, what the services said is printed."""
    stack = Stack()
    failed = request.session.testsfailed
    try:
        stack.up()
        yield stack
    finally:
        if request.session.testsfailed > failed:
            print(stack.logs())
        stack.down()
