"""Logs that differ from their specification, or from what they were."""

import json
from hashlib import sha256

import msgspec
import pytest

from certbus.clock import now_ms
from certbus.cluster import ClusterRegistry, LogStatus
from certbus.cluster_health import active_logs, log_health
from tests.ctparse.derbuild import certificate, common_name
from tests.ingestor.hostile import Answer
from tests.ingestor.odd import ISSUER, NOT_FOUND, OddLog, OddStaticLog, entries, odd_logs
from tests.ingestor.pipeline.test_skip import command
from tests.ingestor.site import Site
from tests.retained import history
from tests.waiting import until


async def at(site: Site, log: OddLog, index: int, integrity: str = "") -> LogStatus:
    """Wait until the log is at this index and in this state of integrity."""

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


class LostTile(OddStaticLog):
    """The partial tile of one tree is gone, and the tile is not full yet."""

    def data(self, index: int, width: int) -> Answer:
        return NOT_FOUND if (index, width) == (2, 40) else super().data(index, width)


@pytest.mark.parametrize("integrity", ["enforce", "warn"])
async def test_a_partial_tile_that_is_gone(site: Site, integrity: str) -> None:
    log = LostTile("slost", entries("slost", 700, leaf_index=True), size=552)
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings, **{"ct_log.integrity": integrity})
        found = await at(site, log, 512)

        async def reported() -> bool:
            error = (await site.logs())[log.name].last_error or ""
            return "tile/data/002.p/40" in error and "larger tree" in error

        await until(reported, "what is wrong")
        log.size = 553
        found = await at(site, log, 553, "proven")
        log.size = 700
        found = await at(site, log, 700, "proven")
    assert (found.published, found.rejected, found.skipped, found.alarms) == (700, 0, 0, 0)


class ForkedAway(LostTile):
    """A lost tile, and the larger tree is of a fork."""

    def fork(self) -> None:
        kept = self.entries[:530]
        self.take([*kept, *entries("other", 700, leaf_index=True)[530:]])
        self.size = 700


async def test_a_partial_tile_that_is_gone_hides_no_split(site: Site) -> None:
    log = ForkedAway("sfork", entries("sfork", 700, leaf_index=True), size=552)
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings)
        await at(site, log, 512)
        log.fork()

        found = await at(site, log, 512, "lying")
    assert set(found.alarms_by_kind) == {"split"}


class MissingIssuer(OddStaticLog):
    """One issuer is not served, or is another one."""

    lost = certificate(subject=common_name("Lost CA"))
    instead = NOT_FOUND

    def issuer(self, fingerprint: str) -> Answer:
        if fingerprint == sha256(self.lost).hexdigest():
            return self.instead
        return super().issuer(fingerprint)


@pytest.mark.parametrize(
    ("instead", "alarms"),
    [(NOT_FOUND, {}), (Answer(ISSUER), {"wrong_issuer": 1}), (Answer(status="500 X"), {})],
)
async def test_an_issuer_that_is_not_available(
    site: Site, instead: Answer, alarms: dict[str, int]
) -> None:
    taken = entries("snoissuer", 300, leaf_index=True)
    taken[130] = msgspec.structs.replace(taken[130], chain=(ISSUER, MissingIssuer.lost, ISSUER))
    log = MissingIssuer("snoissuer", taken)
    log.instead = instead
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings)
        found = await at(site, log, 300)
        assert (found.published, found.rejected) == (300, 0)

        async def reported() -> bool:
            found = (await site.logs())[log.name]
            wanted = sha256(MissingIssuer.lost).hexdigest() in (found.last_error or "")
            return wanted and {k: v > 0 for k, v in found.alarms_by_kind.items()} == dict.fromkeys(
                alarms, True
            )

        await until(reported, "what is missing")
    assert await site.redis.hget(site.keys.log(found.log_id), "circuit") in (None, b"closed")
    batches = await history(site.redis, site.keys, "full", "0-0", 1000)
    messages = [json.loads(each)["data"] for batch in batches for each in batch.messages]
    chains = {each["cert_index"]: len(each["chain"]) for each in messages}
    assert (chains[129], chains[130], chains[131]) == (1, 1, 1)


async def test_a_log_whose_entries_are_all_rejected(site: Site) -> None:
    """An RFC 6962 log archived as tiles: its leaves have no leaf_index."""
    log = OddStaticLog("sarchive", entries("sarchive", 50))
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings)
        found = await at(site, log, 50, "proven")
        assert (found.published, found.rejected) == (0, 50)

        async def reported() -> bool:
            return (await site.logs())[log.name].barren == 50

        await until(reported, "that nothing came of it")
        found = (await site.logs())[log.name]
    assert log_health(found, now_ms(), 5) == "unhealthy"
    assert "entries 0 to 49" in (found.last_error or "")
    assert "leaf_index" in (found.last_error or "")
    assert "certstream-server retire sarchive --now" in (found.last_error or "")


class NoProofs(OddLog):
    """get-proof-by-hash and get-entry-and-proof are always 400."""

    def get_proof_by_hash(self, query: dict[str, str]) -> object:
        del query
        return Answer(b"", "400 Bad Request")

    get_entry_and_proof = get_sth_consistency = get_proof_by_hash


async def test_warn_reads_on_without_proofs(site: Site) -> None:
    log = NoProofs("noproofs", entries("noproofs", 300), size=100)
    middle = {"ct_log.start_index": 50, "ct_log.integrity": "warn"}
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings, **middle)
        for size in (100, 150, 151, 300):
            log.size = size
            found = await at(site, log, size, "unproven")

        async def reported() -> bool:
            error = (await site.logs())[log.name].last_error or ""
            return "published unproven" in error and "entry 49" in error

        await until(reported, "that nothing proves it")

        async def degraded() -> bool:  # once the ingestor has reported its first success
            return log_health((await site.logs())[log.name], now_ms(), 5) == "degraded"

        await until(degraded, "the log is degraded")
        found = (await site.logs())[log.name]
    assert (found.published, found.alarms_by_kind) == (250, {"no_proof": 1})


async def test_warn_reads_on_after_a_log_was_wiped(site: Site) -> None:
    log = OddLog("wiped", entries("wiped", 300))
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings, **{"ct_log.integrity": "warn"})
        await at(site, log, 300, "proven")
        log.take(entries("wiped2", 900))
        log.size = 400
        for size in (400, 500, 900):
            log.size = size
            found = await at(site, log, size, "lying")
            assert log_health(found, now_ms(), 5) == "unhealthy"
        error = found.last_error or ""
    assert "entries from 300 on are published unproven" in error


async def test_a_log_entered_by_mistake_can_be_retired(site: Site) -> None:
    good, mistake = OddLog("good", entries("good", 60)), OddLog("mistake", [])
    async with odd_logs(good) as served:
        configured = [*served.settings["custom_logs"], mistake.setting("http://127.0.0.1:1")]
        ingestor = await site.odd_ingestor({"custom_logs": configured})
        await at(site, good, 60)

        async def fails() -> bool:
            found = (await site.logs()).get(mistake.name)
            return found is not None and found.errors > 0

        await until(fails, "the mistake")
        before = ingestor.present.config
        without = tuple(log for log in before.custom_logs if log.name == good.name)
        ingestor.present.replace(msgspec.structs.replace(before, custom_logs=without))
        done = await command(site, "retire", mistake.name)
        assert done.stdout == b"mistake: dropped: retired by an operator\n", done

        async def quiet() -> bool:
            """Whether no worker determines its start any more."""
            loads = (await ClusterRegistry(site.redis, site.keys).load_workers()).loads.values()
            return all(len(each) == 1 for each in loads)

        await until(quiet, "the end of its task")
        found = (await site.logs())[mistake.name]
        assert (found.state, found.next) == ("retired", None)
        assert found.retired is not None
        assert [log.name for log in active_logs(list((await site.logs()).values()))] == [good.name]
        assert await site.redis.pttl(site.keys.log(found.log_id)) == -1  # it never expires
        # Configured again, it stays retired, until an operator takes that back.
        ingestor.present.replace(before)
        good.take(entries("good", 61))
        good.size = 61
        await at(site, good, 61)
        assert (await site.logs())[mistake.name].state == "retired"
        undone = await command(site, "retire", mistake.name, "--undo")
        assert undone.returncode == 0, undone
        errors = (await site.logs())[mistake.name].errors

        async def fails_again() -> bool:
            return (await site.logs())[mistake.name].errors > errors

        await until(fails_again, "that it is tried again")


async def test_a_wiped_log_begins_anew(site: Site) -> None:
    """The commands of docs/runbook.md, "A log that begins anew"."""
    log = OddLog("wiped", entries("wiped", 300))
    async with odd_logs(log) as served:
        await site.odd_ingestor(served.settings)
        found = await at(site, log, 300, "proven")
        log.take(entries("wiped2", 200))
        log.size = 200
        done = await command(site, "retire", log.name, "--now")
        assert done.returncode == 0, done

        async def dropped() -> bool:
            return (await site.logs())[log.name].retired is not None

        await until(dropped, "the end of the old log")
        await site.redis.delete(site.keys.log(found.log_id), site.keys.evidence(found.log_id))
        found = await at(site, log, 200, "proven")
    assert (found.start, found.published, found.rejected, found.alarms) == (0, 200, 0, 0)
