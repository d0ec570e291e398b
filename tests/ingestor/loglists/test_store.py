"""Log lists: which are accepted, and which are used when none can be fetched."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from certbus.caches.log_lists import LogListCache
from certconf.settings import DEFAULT_LISTS, GOOGLE_LIST
from certconf.settings import LogList as Setting
from ingestor.client.http import Fetcher, http_client
from ingestor.loglists.parser import parse
from ingestor.loglists.source import Source, bundled_list
from ingestor.loglists.store import LogListStore
from simlog.api.log_list import Edition
from tests.ingestor.hostile import Answer, hostile_server
from tests.ingestor.loglists import lists
from tests.ingestor.site import Site
from tests.paths import FIXTURES

GOOGLES = parse(bundled_list("log_list.json"))

Open = Callable[..., LogListStore]


@pytest.fixture
async def opened(site: Site) -> AsyncIterator[Open]:
    """Opens a library as an ingestor has it, on the one Redis of the site."""
    async with http_client() as http:
        fetcher = partial(Fetcher, http, timeout=5.0)
        cache = LogListCache(site.redis, site.keys)
        yield lambda *settings, interval=3600.0: LogListStore(settings, cache, fetcher, interval)


async def refreshed(library: LogListStore) -> LogListStore:
    """The library after a request to every server."""
    await library._cache.request_refresh()
    await library.load()
    await library.refresh()
    return library


def held(library: LogListStore) -> list[str]:
    """Version of each list that is there."""
    return [read.version for _, read in library.lists]


async def simlogs(site: Site, **options: object) -> Setting:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=10, rate=0, **options)
    return msgspec.convert(await lists.signed(site), Setting)


async def test_a_list_is_read_once_and_then_only_when_it_changes(site: Site, opened: Open) -> None:
    library = await refreshed(opened(await simlogs(site)))
    ((_, read),) = library.lists
    assert {log.name for log in read.logs} == {"rfc1", "rfc2", "static1"}
    (before,) = await site.shelf.statuses()
    assert before.checked is not None
    assert before.etag
    with capture_logs() as lines:
        await refreshed(library)
        assert not lines
        (after,) = await site.shelf.statuses()
        assert after.checked is not None
        assert after.checked > before.checked
        await lists.publish(site, Edition(number=1))
        await refreshed(library)
    assert held(library) == ["1.1"]
    (line,) = lines
    assert (line["event"], line["version"], line["logs"]) == ("log list accepted", "1.1", 3)
    (age,) = library.ages().values()
    assert age < 60


@pytest.mark.parametrize("interval", [0.0, 86_400.0])
async def test_a_list_is_due_after_the_configured_interval_or_on_request(
    site: Site, opened: Open, interval: float
) -> None:
    library = await refreshed(opened(await simlogs(site), interval=interval))
    (first,) = await site.shelf.statuses()
    assert first.checked is not None
    wait = (first.due - first.checked) / 1000
    assert 0.4 * (interval or 1e8) < wait
    await library.refresh()
    (second,) = await site.shelf.statuses()
    assert second == first, "it is not due"
    await refreshed(library)
    (third,) = await site.shelf.statuses()
    assert third.checked is not None
    assert third.checked > first.checked
    # A process with a shorter interval does not wait for the due time of this one.
    await opened(library.sources[0].setting, interval=3600.0).refresh()
    (fourth,) = await site.shelf.statuses()
    assert fourth.due - (fourth.checked or 0) <= 3_600_000


REJECTED = [
    ("signature", Edition(number=99, lie="changed")),
    ("signature", Edition(number=99, lie="truncated")),
    ("signature", Edition(number=99, lie="forged")),
    ("signature", Edition(number=99, lie="unsigned")),
    ("unreachable", Edition(number=99, lie="unavailable")),
    ("older", Edition(number=0, states={"rfc1": "retired"})),
    ("too_large", Edition(number=99, lie="endless")),
    ("empty", Edition(number=99, left_out=("rfc1", "rfc2", "static1"), unreadable=3)),
]


async def test_an_invalid_list_is_rejected_and_the_current_one_stays(
    site: Site, opened: Open
) -> None:
    library = opened(await simlogs(site))
    (source,) = library.sources
    for good, (reason, edition) in enumerate(REJECTED, 1):
        await lists.publish(site, Edition(number=good))
        await refreshed(library)
        copy, before = await site.shelf.load(source.id), library.rejections.copy()
        await lists.publish(site, edition)
        with capture_logs() as lines:
            for _ in range(2):
                await refreshed(library)
        assert held(library) == [f"1.{good}"], edition
        assert await site.shelf.load(source.id) == copy, edition
        (line,) = lines
        logged = (line["event"], line["reason"], line["current"])
        assert logged == ("log list rejected", reason, f"1.{good}"), edition
        assert library.rejections - before == {(source.name, reason): 2}, edition
        (slip,) = await site.shelf.statuses()
        assert slip.problem.startswith(f"{reason}: ")
        assert slip.failures == 2
    await lists.publish(site, Edition(number=100))
    await refreshed(library)
    assert held(library) == ["1.100"]
    assert [slip.failures for slip in await site.shelf.statuses()] == [0]


async def test_an_unsigned_list_that_is_older_cut_short_or_gone_is_refused_too(
    site: Site, opened: Open
) -> None:
    await simlogs(site)
    await lists.publish(site, Edition(number=5), "unsigned_list")
    library = await refreshed(opened(msgspec.convert(lists.unsigned(site), Setting)))
    assert held(library) == ["5"]
    for edition in (Edition(number=4), Edition(number=6, lie="truncated")):
        await lists.publish(site, edition, "unsigned_list")
        await refreshed(library)
        assert held(library) == ["5"]
    site.simlog.stop()
    await refreshed(library)
    assert held(library) == ["5"]
    reasons = {reason: count for (_, reason), count in library.rejections.items() if count}
    assert reasons == {"older": 1, "malformed": 1, "unreachable": 1}


async def test_unreadable_entries_are_reported_and_cost_no_others(site: Site, opened: Open) -> None:
    setting = await simlogs(site)
    await lists.publish(site, Edition(number=1, unreadable=2))
    with capture_logs() as lines:
        library = await refreshed(opened(setting))
    ((_, read),) = library.lists
    assert len(read.logs) == 3
    line = lines[-1]
    assert (line["event"], line["entries"]) == ("log list entries rejected", 2)


async def test_every_ingestor_has_what_one_has_fetched(site: Site, opened: Open) -> None:
    setting = await simlogs(site)
    await refreshed(opened(setting))
    site.simlog.stop()
    other = opened(setting)
    await other.load()
    await other.refresh()  # it is not due: no request is sent
    assert held(other) == ["1.0"]
    assert not sum(other.rejections.values())


async def test_a_copy_in_redis_is_verified_again(site: Site, opened: Open) -> None:
    setting = await simlogs(site)
    source = Source(setting)
    await refreshed(opened(setting))
    key = site.keys.log_list(source.id)
    body: Any = await site.redis.hget(key, "body")
    await site.redis.hset(key, "body", body.replace(b"rfc1", b"rfc3"))
    other = opened(setting)
    with capture_logs() as lines:
        await other.load()
    assert held(other) == []
    assert (lines[0]["event"], lines[0]["origin"]) == ("log list rejected", "redis")
    await other.refresh()
    assert held(other) == ["1.0"]


async def test_a_library_puts_its_lists_back_into_an_emptied_redis(
    site: Site, opened: Open
) -> None:
    setting = await simlogs(site)
    library = await refreshed(opened(setting))
    site.simlog.stop()
    await site.redis.flushall()
    await library.load()
    other = opened(setting)
    await other.load()
    assert held(other) == ["1.0"]


async def test_googles_list_comes_with_the_package(site: Site, opened: Open) -> None:
    library = opened(GOOGLE_LIST)
    assert held(library) == [GOOGLES.version]
    await library.load()
    (slip,) = await site.shelf.statuses()
    assert (slip.name, slip.version, slip.checked) == ("google", GOOGLES.version, None)
    assert library.ages(GOOGLES.published_at) == {"google": 0}
    # It is not used with another key.
    other = msgspec.structs.replace(GOOGLE_LIST, key=str(FIXTURES / "no_key.pem"))
    assert held(opened(other)) == []


async def test_apples_list_only_adds_to_googles(opened: Open) -> None:
    apple, google = opened(*reversed(DEFAULT_LISTS)).sources
    assert [(source.name, source.is_signed) for source in (google, apple)] == [
        ("google", True),
        ("apple", False),
    ]
    assert apple.url.startswith("https://")


async def test_lists_can_be_files(site: Site, opened: Open) -> None:
    signed = Setting(
        url=str(FIXTURES / "log_list.json"),
        signature_url=str(FIXTURES / "log_list.sig"),
        key=str(FIXTURES / "log_list_pubkey.pem"),
    )
    plain = Setting(url=f"file://{FIXTURES / 'log_list.json'}", unsigned=True)
    gone = Setting(url=str(FIXTURES / "no_list.json"), unsigned=True)
    library = await refreshed(opened(plain, signed, gone))
    assert held(library) == [GOOGLES.version] * 2
    assert [source.is_signed for source, _ in library.lists] == [True, False]
    assert not library.has_all


async def test_a_list_that_no_ingestor_uses_is_not_refreshed(site: Site, opened: Open) -> None:
    library = await refreshed(opened(Setting(url=str(FIXTURES / "log_list.json"), unsigned=True)))
    (source,) = library.sources
    assert await site.shelf.request_refresh() == [source.id]
    seconds, _ = await site.redis.time()
    await site.redis.hset(site.keys.log_list(source.id), "due", (seconds - 3600) * 1000)
    assert await site.shelf.request_refresh() == []
    await library.refresh()
    assert await site.shelf.request_refresh() == [source.id]


async def test_a_server_that_wants_to_be_left_alone_is(site: Site, opened: Open) -> None:
    async with hostile_server() as server:
        server.answers["/list"] = [
            Answer(status="429 Too Many Requests", headers={"retry-after": "1800"})
        ]
        library = await refreshed(opened(Setting(url=f"{server.url}/list", unsigned=True)))
        await library.refresh()
        assert server.count("/list") == 1
    (slip,) = await site.shelf.statuses()
    seconds, _ = await site.redis.time()
    assert slip.due / 1000 - seconds > 1700


async def test_the_name_of_a_list_shows_no_secret() -> None:
    source = Source(Setting(url="https://user:word@lists.example/a.json?token=x", unsigned=True))
    assert source.name == "https://lists.example/a.json"
