"""Redis behind sentinels, in place of the one Redis of a run.

The append-only file of a server begins anew when the server follows a primary that has another
history. Links keep the file that each server has at the start of the run, so that it also has
what a primary accepted and lost.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from certbus.connection import connect
from tests.adversity.faults import GATEWAYS, INGESTORS, FailOver
from tests.adversity.lines import files
from tests.e2e.processes import Process
from tests.e2e.sentinels import Network, Watched
from tests.e2e.site import Site
from tests.waiting import until

_SETTINGS: Final = (
    "appendonly yes",
    "appendfsync no",
    "auto-aof-rewrite-percentage 0",
    "aof-use-rdb-preamble no",  # Redis 6.2 puts it at the begin of the file that `lines.py` reads
)
_DOWN_AFTER_MS: Final = 5000
"""A busy machine takes some of it, and must not make a primary of its own."""

_SIDE: Final = (INGESTORS[0], GATEWAYS[0])
"""The processes that reach a primary which is cut off, and nothing else."""


class RecordedRedis(Watched):
    """Three Redis servers and three sentinels, and what each Redis wrote since it was empty."""

    def __init__(self, site: Site, directory: Path, executable: str) -> None:
        self.network = Network(site)
        self._kept = directory / "kept"
        self._promoted: list[Process] = []
        super().__init__(site, directory, self.network, executable, _SETTINGS, _DOWN_AFTER_MS)

    @property
    def settings(self) -> dict[str, str]:
        """Those of ingestors and gateways."""
        return {
            "redis_password_file": str(self.password_file),
            "redis_sentinel_password_file": str(self.sentinel_password_file),
        }

    async def start(self) -> None:
        """Start everything and wait until both replicas have begun to write their files."""
        await super().start()
        for port, server in self.servers.items():
            await until(partial(self._writes, port), f"{server.name} writes its file", 120)
            for file in files(self._data(server)):
                link = self._link(server, file)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(file)
        self._promoted.append(self.servers[await self.primary()])

    async def apply(self, fault: FailOver) -> None:
        """Take the primary away, and bring it back."""
        await self.fail_over(fault.how, fault.seconds, _SIDE)
        self._promoted.append(self.servers[await self.primary()])

    async def lines(self) -> Sequence[Path]:
        """Return what each primary wrote, the present one last.

        Raises:
            AssertionError: the present one has not the history of the run, as it was primary
                before and had to follow another one.
        """
        last = self.servers[await self.primary()]
        for file in files(self._data(last)):
            assert self._link(last, file).samefile(file), f"{last.name} has begun a new file"
        before = dict.fromkeys(server.name for server in self._promoted if server is not last)
        return [self._kept / name for name in chain(before, [last.name])]

    def _data(self, server: Process) -> Path:
        return self._directory / server.name

    def _link(self, server: Process, file: Path) -> Path:
        return self._kept / server.name / file.relative_to(self._data(server))

    async def _writes(self, port: int) -> bool:
        async with connect(self.url_of(port)) as client:
            facts = await client.info()
        is_synchronised = facts["role"] == "master" or facts["master_link_status"] == "up"
        return is_synchronised and not (
            facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"]
        )
