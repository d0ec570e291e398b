"""Logs that differ from their specification, or from what they were."""

from certbus.directory import LogStatus
from tests.ingestor.odd import OddLog, entries, odd_logs
from tests.ingestor.site import Site
from tests.waiting import until


async def at(site: Site, log: OddLog, index: int, integrity: str = "") -> LogStatus:
    """Wait until so many entries are dealt with, and so much is proven."""

    async def reached() -> bool:
        found = (await site.logs()).get(log.name)
        return found is not None and found.next == index and integrity in ("", found.integrity)

    await until(reached, f"entry {index} of {log.name}")
    return (await site.logs())[log.name]


class NullExtra(OddLog):
    """One entry's extra_data is null."""

    def served(self, index: int) -> dict[str, object]:
        shown = super().served(index)
        return {**shown, "extra_data": None} if index == 20 else shown


async def test_an_entry_without_extra_data(site: Site) -> None:
    log = NullExtra("nullextra", entries("nullextra", 60))
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings)
        found = await at(site, log, 60, "proven")
    assert (found.published, found.rejected) == (60, 0)
