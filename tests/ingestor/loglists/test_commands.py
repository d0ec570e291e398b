"""`refresh-lists` and `retire`, as an operator runs them beside an ingestor."""

import msgspec

from simlog.api.log_list import Edition
from tests.ingestor.loglists import lists
from tests.ingestor.loglists.test_retirement import followed, named, state
from tests.ingestor.pipeline.test_skip import command
from tests.ingestor.site import Site
from tests.waiting import until

ALL = {"rfc1", "rfc2", "static1"}


async def test_lists_are_fetched_and_logs_retired_on_demand(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=300, rate=0)
    nobody = await command(site, "refresh-lists")
    assert (nobody.returncode, nobody.stderr) == (
        1, b"certstream-server: no ingestor has any log lists\n"
    )  # fmt: skip
    listed = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    ingestor = await site.ingestor("a", **listed)
    await until(site.complete, "all entries")
    await until(lambda: named(site, listed, 3), "that the list names three logs")

    await lists.publish(site, Edition(number=2))
    good = await command(site, "refresh-lists")
    assert good.returncode == 0, good
    assert good.stdout.endswith(b"/log_list.json: version 1.2 stored, up to date\n")
    await lists.publish(site, Edition(number=1))
    bad = await command(site, "refresh-lists")
    assert bad.returncode == 1
    assert b": version 1.2 stored; rejected, older: version '1.1' is older" in bad.stdout

    # A configuration that is read again, as by SIGHUP, has them fetched as well.
    await lists.publish(site, Edition(number=3))
    ingestor.present.replace(msgspec.structs.replace(ingestor.present.config))

    async def is_held() -> bool:
        return [slip.version for slip in await site.shelf.statuses()] == ["1.3"]

    await until(is_held, "the newer list")

    async def only(*names: str) -> bool:
        return await followed(site) == set(names)

    async def is_retired(log: str) -> bool:
        return await state(site, log) == "retired"

    done = await command(site, "retire", "rfc1", "--reason", "no longer needed")
    assert done.stdout == b"rfc1: drained, then dropped: no longer needed\n", done
    await until(lambda: is_retired("rfc1"), "the end of a log")
    await until(lambda: only("rfc2", "static1"), "the other logs")
    again = await command(site, "retire", "rfc1")
    assert again.returncode == 1
    assert again.stderr.endswith(b"rfc1: it is already retired: no longer needed\n")
    await command(site, "retire", "rfc2", "--now")
    await until(lambda: is_retired("rfc2"), "the end of another")
    # A newer list that names them does not bring them back; the operator does.
    await lists.publish(site, Edition(number=4))
    assert (await command(site, "refresh-lists")).returncode == 0
    assert await only("static1")
    for log in ("rfc1", "rfc2"):
        undone = await command(site, "retire", log, "--undo")
        assert b"followed again, from entry " in undone.stdout, undone
    await until(lambda: only(*ALL), "all logs")


async def test_an_ingestor_starts_with_the_lists_in_redis_when_their_server_is_gone(
    site: Site,
) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=300, rate=0)
    listed = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    first = await site.ingestor("a", **listed)
    await until(site.complete, "all entries")
    await first.stop()
    await lists.publish(site, Edition(number=1, lie="unavailable"))
    await site.shelf.request_refresh()
    await site.ingestor("b", **listed)

    async def holds_all() -> bool:
        return await site.holders() == {"b": 3}

    await until(holds_all, "that all logs are followed")
