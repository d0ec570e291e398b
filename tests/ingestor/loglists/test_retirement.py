"""Retirement of logs: by which lists and commands, how a log is drained, and what undoes it."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry
from certbus.keys import Keys, operator_key
from certbus.logs.leases import RETIRED_VISIBLE_MS, Leases
from certbus.logs.registry import ListedEntry, LogRegistry, LogState, Retirement
from certbus.logs.tree_state import TreeStateStore
from ingestor.assignment.worker import log_description
from ingestor.client.errors import InvalidResponse
from ingestor.client.http import Fetcher, http_client
from ingestor.log import READ_MARGIN_SECS, Kind, Log
from ingestor.loglists.parser import LogList
from ingestor.loglists.retirement import ListedLog, RetirementPlan, plan_retirements
from launcher.cli import main
from launcher.runtime.embedded_redis import EmbeddedRedis
from simlog.api.log_list import Edition
from tests.ingestor.loglists import lists
from tests.ingestor.site import Site
from tests.ingestor.test_serve import adds_up
from tests.waiting import until

NOW = 1_800_000_000.0
LOG = Log(
    id="11" * 32, name="Log", url="https://log.example/", kind=Kind.RFC6962, state="usable", mmd=60
)
FOLLOWED = LogState(is_known=True, retirement=None, is_dropped=False)


def changed(**fields: Any) -> Log:
    return msgspec.structs.replace(LOG, **fields)


def edition(made: float, *logs: Log, unreadable: tuple[str, ...] = ()) -> LogList:
    return LogList(f"of {made}", made, logs, unreadable)


@dataclass
class Case:
    """A list that is read again, its previous edition and the state of one log."""

    current: LogList
    wanted: tuple[Log, ...] = ()
    is_signed: bool = True
    previous: LogList = field(default_factory=lambda: edition(1, LOG))
    state: LogState = FOLLOWED

    def judged(self, *, keep: bool = False) -> RetirementPlan:
        raw = msgspec.Raw(msgspec.json.encode(LOG))
        listed = {log.id: ListedEntry(self.previous.rank, raw) for log in self.previous.logs}
        source = ListedLog("list", "a list", self.is_signed, self.current, listed)
        wanted = {log.id: log for log in self.wanted}
        return plan_retirements(wanted, {LOG.id: self.state}, [source], NOW, keep=keep)


RETIRED = {
    "retired": Case(edition(2, changed(state="retired", since=NOW - 99))),
    "rejected": Case(edition(2, changed(state="rejected"))),
    "not in version": Case(edition(2)),
    "interval": Case(edition(1, changed(end_exclusive=NOW - READ_MARGIN_SECS)), is_signed=False),
}


@pytest.mark.parametrize("why", RETIRED)
def test_what_a_newer_signed_list_drops_is_retired(why: str) -> None:
    verdict = RETIRED[why].judged()
    ((list_id, log_id, retirement),) = verdict.retire
    assert (list_id, log_id, retirement.by) == ("list", LOG.id, "list")
    assert why in retirement.why
    assert msgspec.json.decode(retirement.log, type=Log) == LOG
    assert retirement.since <= NOW


NOT_RETIRED = {
    "the same edition": Case(edition(1)),
    "an older one": Case(edition(0.5)),
    "an unsigned list": Case(edition(2, changed(state="rejected")), is_signed=False),
    "an unsigned list without it": Case(edition(2), is_signed=False),
    "a list with entries that cannot be read": Case(edition(2, unreadable=("log 7",))),
    "a log that is wanted": Case(edition(2), wanted=(LOG,)),
    "a log that the list did not name": Case(edition(2), previous=edition(1)),
    "a log that is draining": Case(
        edition(2), state=LogState(True, Retirement("list", "", 0, 0), False)
    ),
}


@pytest.mark.parametrize("why", NOT_RETIRED)
def test_what_is_not_retired(why: str) -> None:
    assert not NOT_RETIRED[why].judged().retire


@pytest.mark.parametrize("why", RETIRED)
def test_a_log_that_is_kept_is_followed_until_a_command_retires_it(why: str) -> None:
    plan = RETIRED[why].judged(keep=True)
    assert not plan.retire
    assert plan.logs == {LOG.id: LOG}
    case = RETIRED[why]
    by_command = Case(case.current, is_signed=case.is_signed, state=retired("command"))
    (log,) = by_command.judged(keep=True).logs.values()
    assert log.drain is not None


def test_a_list_names_what_is_followed_once_an_edition() -> None:
    verdict = Case(edition(2, LOG), wanted=(LOG,)).judged()
    (naming,) = verdict.listed["list"].values()
    assert naming.rank == edition(2).rank
    assert not Case(edition(1, LOG), wanted=(LOG,)).judged().listed["list"]
    assert not Case(edition(2, LOG)).judged().listed["list"]
    unknown = LogState(is_known=False, retirement=None, is_dropped=False)
    assert not Case(edition(2, LOG), wanted=(LOG,), state=unknown).judged().listed["list"]


def test_a_list_names_again_what_another_release_stored() -> None:
    stored = msgspec.to_builtins(LOG)
    del stored["unsigned_list"]
    raw = msgspec.Raw(msgspec.json.encode(stored))

    def judged(current: LogList) -> RetirementPlan:
        before = {LOG.id: ListedEntry(edition(2).rank, raw)}
        source = ListedLog("list", "a list", True, current, before)
        return plan_retirements({LOG.id: LOG}, {LOG.id: FOLLOWED}, [source], NOW)

    (entry,) = judged(edition(2, LOG)).listed["list"].values()
    assert msgspec.json.decode(entry.log, type=Log) == LOG
    assert not judged(edition(1, LOG)).listed["list"], "another ingestor has a newer edition"
    raw = msgspec.Raw(msgspec.json.encode(LOG))
    twice = edition(2, changed(url="https://other.example/"), LOG)
    assert not judged(twice).listed["list"], "it would be written at each poll"


ORIGINS: tuple[dict[str, Any], ...] = (
    {"listed_at": None},
    {"listed_at": "https://lists.example"},
    {"listed_at": "https://lists.example", "unsigned_list": "https://lists.example/a"},
)


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_log_that_a_command_retired_is_drained_as_it_was_followed(
    server: EmbeddedRedis, redis: Redis, origin: dict[str, Any]
) -> None:
    log = changed(operator="Example", **origin)
    keys = Keys()
    await ClusterRegistry(redis, keys).describe([log_description(log)])
    assert await Leases(redis, keys, "one", 30).acquire(log.id, 5) is not None
    arguments = ["retire", log.id, "--redis-url", server.url]
    assert await asyncio.to_thread(main, arguments) == 0
    states = await LogRegistry(redis, keys).states()
    (drained,) = plan_retirements({}, states, [], NOW).logs.values()
    assert drained.drain is not None
    assert (drained.listed_at, drained.slots) == (log.listed_at, log.slots)


@pytest.mark.parametrize("by", ["command", "list"])
async def test_a_retired_log_of_unknown_origin_is_not_trusted(by: Any) -> None:
    stored = {"id": LOG.id, "name": "Log", "url": "https://127.0.0.1/", "kind": "rfc6962"}
    raw = msgspec.Raw(msgspec.json.encode({**stored, "operator": "Example"}))
    state = LogState(True, Retirement(by, "because", NOW, NOW, raw), False)
    (log,) = plan_retirements({}, {LOG.id: state}, [], NOW).logs.values()
    assert operator_key(log.slots) != operator_key("Example")
    async with http_client() as http:
        fetcher = Fetcher(http, log.name, 1, listed_at=log.listed_at)
        with pytest.raises(InvalidResponse, match="private address"):
            await fetcher.get_log(log.url, 1)


def retired(by: Any, *, dropped: bool = False) -> LogState:
    raw = msgspec.Raw(msgspec.json.encode(LOG))
    return LogState(True, Retirement(by, "because", NOW - 10, NOW, raw), dropped)


def test_any_worker_drains_a_retired_log_and_none_follows_a_drained_one() -> None:
    (log,) = Case(edition(2), state=retired("list")).judged().logs.values()
    assert log.url == LOG.url
    assert log.drain is not None
    assert (log.drain.due, log.drain.deadline) == (NOW + 50, NOW + 50 + READ_MARGIN_SECS)
    assert not Case(edition(2), state=retired("list", dropped=True)).judged().logs


def test_a_list_undoes_the_retirement_by_another_list_but_not_by_an_operator() -> None:
    for dropped in (False, True):
        case = Case(edition(2, LOG), wanted=(LOG,), state=retired("list", dropped=dropped))
        assert case.judged().unretire == [LOG.id]
        assert case.judged().logs == {LOG.id: LOG}
    case = Case(edition(2, LOG), wanted=(LOG,), state=retired("command"))
    assert not case.judged().unretire
    assert [log.drain is not None for log in case.judged().logs.values()] == [True]
    case.state = retired("command", dropped=True)
    assert not case.judged().logs


def test_a_retirement_of_another_version_is_one_all_the_same() -> None:
    broken = LogState(True, Retirement("list", "", 0, 0, msgspec.Raw(b'{"id": 7}')), False)
    assert not Case(edition(2), state=broken).judged().logs


async def test_a_retired_log_is_drained_dropped_and_can_return(site: Site) -> None:
    roll = LogRegistry(site.redis, site.keys)
    one, two = (Leases(site.redis, site.keys, name, 30) for name in ("one", "two"))
    retirement = Retirement("list", "because", NOW, NOW, msgspec.Raw(msgspec.json.encode(LOG)))
    assert not await roll.retire(LOG.id, retirement), "no worker follows it"
    lease = await one.acquire(LOG.id, 5)
    assert lease is not None
    assert not await one.drop(lease, 5), "it is not retired"
    await roll.record_listed("list", {LOG.id: ListedEntry("7", retirement.log)})
    assert await roll.retire(LOG.id, retirement, "list")
    assert await roll.listed("list") == {}
    assert (await roll.states())[LOG.id] == LogState(True, retirement, False)
    assert not await one.drop(lease, 6), "Redis lost an entry"
    assert await one.drop(lease, 5)
    assert await two.acquire(LOG.id, 5) is None
    assert (await roll.states())[LOG.id].is_dropped
    assert await site.redis.pttl(site.keys.log(LOG.id)) > 0
    assert not await roll.unretire(LOG.id, "command"), "a list retired it"
    assert await roll.unretire(LOG.id, "list")
    assert await site.redis.pttl(site.keys.log(LOG.id)) == -1
    again = await two.acquire(LOG.id, None)
    assert again is not None
    assert again.next == 5
    # When nothing is kept of it any more, it is off the roll.
    await site.redis.delete(site.keys.log(LOG.id))
    assert await roll.states() == {}
    assert await site.redis.scard(site.keys.logs) == 0


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_log_that_an_operator_retired_stays_retired(site: Site, at_once: bool) -> None:
    """A list or a configuration may name it for ever."""
    registry = LogRegistry(site.redis, site.keys)
    retirement = Retirement("command", "noisy", 0.0, 0.0, msgspec.Raw(msgspec.json.encode(LOG)))
    if at_once:  # nothing was read of it
        await site.redis.hset(site.keys.log(LOG.id), "name", LOG.name)
        await site.redis.sadd(site.keys.logs, LOG.id)
        assert await registry.retire(LOG.id, retirement)
    else:
        leases = Leases(site.redis, site.keys, "one", 30)
        lease = await leases.acquire(LOG.id, 5)
        assert lease is not None
        assert await registry.retire(LOG.id, retirement)
        assert await leases.drop(lease, 5)
    assert await site.redis.pttl(site.keys.log(LOG.id)) == -1
    states = await registry.states()
    assert states[LOG.id].is_dropped
    assert not Case(edition(2, LOG), wanted=(LOG,), state=states[LOG.id]).judged().logs
    # An ingestor of the previous release lets the retired log expire.
    await TreeStateStore(site.redis, site.keys).record_alarm(LOG.id, "split", "two trees", [])
    expiring = site.keys.log(LOG.id), site.keys.evidence(LOG.id)
    for key in expiring:
        assert await site.redis.pexpire(key, RETIRED_VISIBLE_MS)
    assert await registry.states() == states
    assert [await site.redis.pttl(key) for key in expiring] == [-1, -1]


async def hurry(site: Site, edition: Edition, which: str = "log_list") -> None:
    """Replace a list of simlog, and request that it is read."""
    await lists.publish(site, edition, which)
    await site.shelf.request_refresh()


async def fault(site: Site, log: str, *faults: dict[str, object]) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{site.simlog.url}/control/{log}/faults"
        (await http.put(url, json=faults)).raise_for_status()


async def named(site: Site, settings: dict[str, Any], logs: int) -> bool:
    """Whether the list names `logs` logs according to Redis."""
    return len(await LogRegistry(site.redis, site.keys).listed(lists.list_id(settings))) == logs


async def state(site: Site, log: str) -> str:
    logs = await site.logs()
    return logs[log].state if log in logs else ""


async def followed(site: Site) -> set[str]:
    return {name for name, log in (await site.logs()).items() if log.owner is not None}


async def test_a_retired_log_is_read_to_its_end_before_it_is_dropped(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=1500, rate=0, mmd=1)
    await fault(site, "rfc1", {"kind": "status", "code": 503, "only": "entries"})
    quick = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    await site.ingestor("a", **quick)
    await site.ingestor("b", **quick)
    await until(lambda: named(site, quick, 3), "that the list names three logs")
    await hurry(site, Edition(number=1, states={"rfc1": "retired"}, left_out=("static1",)))

    async def has_state(log: str, expected: str) -> bool:
        return await state(site, log) == expected

    await until(lambda: has_state("rfc1", "draining"), "draining")
    await until(lambda: has_state("static1", "retired"), "the log that was left out is retired")
    assert await state(site, "rfc1") == "draining", "it cannot be read, so it is not at its end"
    await fault(site, "rfc1")
    await until(lambda: has_state("rfc1", "retired"), "the end of the log", 60)
    logs, sizes = await site.logs(), await site.simlog.sizes()
    reasons = {
        "rfc1": "retired in version 1.1 of ",
        "static1": "not in version 1.1",
    }
    for name, why in reasons.items():
        log = logs[name]
        assert log.next == sizes[name]
        assert log.owner is None
        assert log.retired is not None
        assert log.retired_why is not None
        assert log.retired_why.startswith(why)
        assert not await site.redis.exists(site.keys.lease(log.log_id))
    assert all(map(adds_up, logs.values()))
    await until(site.complete, "the other log is followed as ever")
    await hurry(site, Edition(number=2))
    await until(lambda: has_state("rfc1", "usable"), "a log that is listed again is followed again")


async def test_no_list_retires_what_another_ingestor_follows(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=300, rate=20, mmd=1)
    signed = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    unsigned = {**lists.LISTED_ONLY, "log_lists": [lists.unsigned(site)]}
    await site.ingestor("a", **signed)
    await site.ingestor("b", **unsigned)
    everything = {"rfc1", "rfc2", "static1"}

    async def are_followed(*names: str) -> bool:
        return await followed(site) == set(names)

    async def beyond(sizes: dict[str, int]) -> bool:
        logs = await site.logs()
        return all((logs[log].next or 0) > size for log, size in sizes.items())

    await until(lambda: are_followed(*everything), "all logs")
    for settings in (signed, unsigned):
        await until(partial(named, site, settings, 3), "that each list names three logs")
    # The signed list retires a log that the other ingestor's list still names: it is followed.
    await hurry(site, Edition(number=1, states={"rfc1": "retired"}))
    await until(lambda: named(site, signed, 2), "that the signed list names two")

    async def is_wanted_again() -> bool:
        return await state(site, "rfc1") == "usable"

    await until(is_wanted_again, "that the other ingestor wants it")
    await until(lambda: are_followed(*everything), "all logs")
    sizes = await site.simlog.sizes()
    await until(lambda: beyond(sizes), "more of each log")
    assert (await site.logs())["rfc1"].retired is None
    # The unsigned list drops a log that it alone still names: it is released, not retired.
    await hurry(site, Edition(number=1, left_out=("rfc1",)), "unsigned_list")
    await until(lambda: are_followed("rfc2", "static1"), "one log less", 40)
    sizes = await site.simlog.sizes()
    await until(lambda: beyond({name: sizes[name] for name in ("rfc2", "static1")}), "more of both")
    assert (await site.logs())["rfc1"].retired is None
    assert all(map(adds_up, (await site.logs()).values()))
