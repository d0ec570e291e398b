"""What clients of v2 read about entries that are not proven, with `integrity: warn`."""

from collections import defaultdict

import httpx

from simlog.oracle import ground_truth
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import FROM_START, alarms, switch
from tests.waiting import until

SWAPPED = {"rfc": 100, "static": 60}


async def test_each_entry_has_its_own_state(site: Site) -> None:
    """Signature of the tree head and inclusion of the entry, of logs with one fault each."""
    await site.simlog.start(
        rfc6962=3, static_ct=3, preload=6 * 200, rate=0, duplicates=0, max_entries=64
    )
    faults: list[tuple[str, dict[str, object]]] = [
        ("*1", {"kind": "bad_signature"}),
        ("*2", {"kind": "forged_precert", "every": 3}),
        # Each shows a certificate that no other log has.
        ("rfc3", {"kind": "swapped_leaf", "index": SWAPPED["rfc"]}),
        ("static3", {"kind": "swapped_leaf", "index": SWAPPED["static"]}),
    ]
    for log, fault in faults:
        await switch(site, log, fault)
    await site.ingestor("a", **FROM_START, **{"ct_log.integrity": "warn"})
    await until(site.complete, "everything is published")
    states: defaultdict[str, dict[int, tuple[str, ...]]] = defaultdict(dict)
    for message in await site.streamed_v2():
        data = message["data"]
        found = states[data["source"]["name"]]
        found[data["entry"]["index"]] = tuple(data["verification"].values())
    async with httpx.AsyncClient(trust_env=False) as http:
        record = ground_truth.read_jsonl((await http.get(f"{site.simlog.url}/record")).content)
    for kind in ("rfc", "static"):
        assert set(states[f"{kind}1"].values()) == {("failed", "unverified")}
        forged = {
            line.index
            for line in record
            if line.log == f"{kind}2" and line.misbehaviour == "forged_precert"
        }
        assert len(forged) > 20
        for index, state in states[f"{kind}2"].items():
            assert state == ("verified", "failed" if index in forged else "verified"), index
        assert (await alarms(site, f"{kind}2")).startswith("forged_precert: ")
        swapped = states[f"{kind}3"]
        assert swapped[SWAPPED[kind]] == ("verified", "failed")  # and so have the others of its run
        assert set(swapped.values()) <= {
            ("verified", inclusion) for inclusion in ("verified", "failed", "unverified")
        }
    sizes = await site.simlog.sizes()
    for name, status in (await site.logs()).items():
        # The certificates that were shown instead may be of one kind: duplicates.
        assert status.published + status.duplicates == sizes[name]
