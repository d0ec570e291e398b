"""Logs of log lists that a configuration excludes: never requested, kept, and no problem."""

import io
import re
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console
from structlog.testing import capture_logs

from certbus.cluster import snapshot
from certbus.cluster_report import cluster_report
from certbus.keys import operator_key
from certbus.server_state import ServerState
from certconf import Config
from certconf.settings import CTLog, CustomLog
from ingestor.log import Kind, Log
from ingestor.loglists.exclusions import Exclusions
from launcher.commands.status.render import view
from simlog.api.request_stats import read
from tests.ingestor.loglists import lists
from tests.ingestor.site import Site
from tests.ingestor.test_serve import adds_up
from tests.waiting import until

LOG = Log(
    id="11" * 32,
    name="Log",
    url="https://ct.example/2026/",
    kind=Kind.RFC6962,
    operator="Let's Encrypt",
)


def exclusions(**settings: Any) -> Exclusions:
    custom = settings.pop("custom", ())
    return Exclusions(Config(ct_log=CTLog(**settings), custom_logs=custom))


@pytest.mark.parametrize("name", ["lets encrypt", "LET'S  ENCRYPT", " Let-s\tEncrypt. "])
def test_operators_compare_without_case_punctuation_and_blanks(name: str) -> None:
    assert exclusions(excluded_operators=(name,)).cover(LOG)
    assert not exclusions(excluded_operators=(f"{name} 2",)).cover(LOG)


@pytest.mark.parametrize(
    "url", ["https://ct.example/2026/", "HTTPS://CT.example:443/2026", "ct.example/2026"]
)
def test_logs_compare_by_url(url: str) -> None:
    assert exclusions(excluded_logs=(url,)).cover(LOG)
    assert not exclusions(excluded_logs=(f"{url}1",)).cover(LOG)


def test_a_configured_log_is_never_excluded() -> None:
    both = {"excluded_operators": (LOG.operator,), "excluded_logs": (LOG.url,)}
    assert exclusions(**both).cover(LOG)
    custom = (CustomLog("Log", "https://ct.example/2026", operator=LOG.operator),)
    assert not exclusions(**both, custom=custom).cover(LOG)


def test_names_that_match_nothing() -> None:
    excluded = exclusions(
        excluded_operators=("lets encrypt", "Gogle"),
        excluded_logs=(LOG.url, "https://other.example"),
    )
    assert excluded.unmatched_operators({operator_key(LOG.operator)}) == ["Gogle"]
    assert excluded.unmatched_logs([LOG]) == ["https://other.example"]


async def requests(site: Site) -> dict[str, int]:
    async with httpx.AsyncClient(trust_env=False) as http:
        counts = read((await http.get(f"{site.simlog.url}/requests")).content)
    return {name: counted.total for name, counted in counts.logs.items()}


async def has_state(site: Site, log: str, expected: str, *, owned: bool) -> bool:
    found = (await site.logs()).get(log)
    return found is not None and (found.state, found.owner is not None) == (expected, owned)


async def test_an_excluded_log_is_never_requested_and_no_problem(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=300, rate=20)
    settings: dict[str, Any] = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    excluding = {"ct_log.excluded_logs": [f"{site.simlog.url}/rfc1", "https://no.example"]}
    with capture_logs() as lines:
        first = await site.ingestor("a", **settings, **excluding)
        await until(partial(has_state, site, "rfc1", "excluded", owned=False), "excluded")
        await until(partial(has_state, site, "rfc2", "usable", owned=True), "the others")
    unmatched = [line for line in lines if line["event"] == "configured names unmatched"]
    assert [(line["setting"], line["names"]) for line in unmatched] == [
        ("ct_log.excluded_logs", ["https://no.example"])
    ]
    assert (await requests(site))["rfc1"] == 0
    # Long after its last success an excluded log is no problem.
    seen = await snapshot(site.redis, site.keys)
    later = msgspec.structs.replace(seen, now=seen.now + 10**7)
    server = ServerState(later.now, used_memory=1, max_memory=0)
    (excluded,) = (log for log in seen.logs if log.name == "rfc1")
    report = cluster_report(later, server, unhealthy_threshold=5)
    assert {
        log.name: (log.status, log.state) for log in report.logs if log.id == excluded.log_id
    } == {"rfc1": ("excluded", "excluded")}
    assert not any("rfc1" in problem.text for problem in report.problems)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view(report, 200))
    assert re.search(r"rfc1 .* excluded", console.export_text())

    # An ingestor that does not exclude it follows it.
    second = await site.ingestor("b", **settings)
    await until(partial(has_state, site, "rfc1", "usable", owned=True), "followed")

    async def advanced(beyond: int) -> bool:
        return ((await site.logs())["rfc1"].next or 0) > beyond

    await until(partial(advanced, 150), "entries of it")
    await second.stop()
    await until(partial(has_state, site, "rfc1", "excluded", owned=False), "excluded again", 90)
    log, sent = (await site.logs())["rfc1"], (await requests(site))["rfc1"]
    assert log.next is not None
    assert adds_up(log)

    # A reload lifts the exclusion: the log continues at its position.
    config = first.present.config
    ct_log = msgspec.structs.replace(config.ct_log, excluded_logs=())
    assert (await requests(site))["rfc1"] == sent
    first.present.replace(msgspec.structs.replace(config, ct_log=ct_log))
    await until(partial(advanced, log.next), "that it continues")
    assert (await site.logs())["rfc1"].start == log.start
    # And another one sets it.
    first.present.replace(config)
    await until(partial(has_state, site, "rfc1", "excluded", owned=False), "excluded by a reload")
