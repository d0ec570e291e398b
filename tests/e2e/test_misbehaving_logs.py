"""Misbehaving logs and a default configuration: no client receives what a log did not commit to."""

import httpx

from simlog.oracle.oracle import judge
from tests.e2e.clients import connected
from tests.e2e.site import FORMS, Site
from tests.waiting import until

FAULTS: dict[str, dict[str, object]] = {
    "rfc1": {"kind": "swapped_leaf", "index": 300},
    "rfc2": {"kind": "garbled", "index": 300},
    "rfc3": {"kind": "forged_precert", "every": 2},
    "rfc4": {"kind": "wrong_root"},
    "rfc5": {"kind": "bad_signature"},
    "static1": {"kind": "wrong_leaf_index", "index": 300},
    "static2": {"kind": "wrong_issuer"},
    "static3": {"kind": "swapped_leaf", "every": 7},
}
NAMED = {
    "rfc1": {"wrong_leaf"},
    "rfc2": {"wrong_leaf"},
    "rfc3": {"forged_precert"},
    "rfc4": {"root_mismatch", "wrong_proof"},
    "rfc5": {"bad_signature"},
    "static1": {"wrong_leaf"},
    "static3": {"wrong_leaf"},
}
UNNEEDED = "static2"
"""It has an alarm only if an issuer is requested of it, which no other log has given before."""
HONEST = {"rfc6", "static4"}


async def test_nothing_uncommitted_reaches_a_client(site: Site) -> None:
    await site.start_redis()
    await site.start_logs(rfc6962=6, static_ct=4, preload=6000, rate=0, duplicates=0.2)
    async with httpx.AsyncClient(trust_env=False) as http:
        for log, fault in FAULTS.items():
            url = f"{site.logs_url}/control/{log}/faults"
            (await http.put(url, json=fault)).raise_for_status()
        sizes = (await http.get(f"{site.logs_url}/world.json")).json()["logs"]
    complete = {log["name"]: log["size"] for log in sizes if log["name"] in HONEST}
    await site.configure()
    gateway = await site.start_gateway()
    async with connected([gateway], FORMS) as clients:
        ingestor = site.start_ingestor()

        async def all_named() -> bool:
            kinds = {log.name: set(log.alarms_by_kind) for log in await site.logs()}
            return all(kinds.get(log, set()) & expected for log, expected in NAMED.items())

        await until(all_named, f"an alarm for each fault\n{ingestor}")

        async def honest_complete() -> bool:
            places = {log.name: log.next for log in await site.logs()}
            return complete.items() <= places.items()

        await until(honest_complete, "the honest logs are read")
        ingestor.stop()
        for each in await site.logs():
            if each.name != UNNEEDED:
                assert (each.alarms > 0) == (each.name in NAMED), f"{each.name}: {each.alarm}"
            done = each.published + each.duplicates + each.rejected + each.skipped
            assert done == (each.next or 0)
        newest = (await site.streams())[0].messages[-1][7:].partition(b'"')[0].decode()

        async def all_received() -> bool:
            return all(client.last_certificate == newest for client in clients)

        await until(all_received, f"everything up to {newest} at the clients")
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    for found in judge(await site.record(), deliveries).findings:
        assert found.received > sum(complete.values()) // 2
        assert (found.uncommitted, found.unknown, found.altered, found.repeated) == ((), (), (), ())
