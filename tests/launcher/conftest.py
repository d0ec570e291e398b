import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.launcher.up_process import Begin, Up


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    begun: list[Up] = []

    # tmp_path is too long for the sockets that are put there.
    with tempfile.TemporaryDirectory(prefix="up-", ignore_cleanup_errors=True) as temporary:

        def _begin(*arguments: str, **environment: str) -> Up:
            begun.append(Up(tmp_path, temporary, *arguments, **environment))
            return begun[-1]

        yield _begin
        for up in begun:
            if up.process.running:
                up.process.kill()
