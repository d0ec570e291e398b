"""A precertificate and its certificate: one message with `dedup.by: issuance`, else two."""

import httpx
import msgspec
import pytest

from simlog.oracle import ground_truth
from simlog.oracle.oracle import DedupBy, Delivery, Tally, judge
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import FROM_START
from tests.retained import history
from tests.waiting import until

CERTIFICATES = 1200  # 600 issuances


@pytest.mark.parametrize("by", ["certificate", "issuance"])
async def test_simulated_pairs(site: Site, by: DedupBy) -> None:
    """Also while ingestors are stopped and started."""
    await site.simlog.start(rfc6962=2, static_ct=2, rate=0, preload=CERTIFICATES, duplicates=0.3)
    settings = {**FROM_START, "dedup.by": by}
    first = await site.ingestor("first", **settings)
    await site.ingestor("second", **settings)

    async def has_begun() -> bool:
        return bool(await history(site.redis, site.keys, "lite", "0-0", 1))

    await until(has_begun, "the first batch is published")
    await first.stop()
    await site.ingestor("third", **settings)
    await until(site.complete, "everything is published")
    logs = (await site.logs()).values()
    tallies = [
        Tally(x.name, x.start or 0, x.next or 0, x.published, x.duplicates, x.rejected, x.skipped)
        for x in logs
    ]
    async with httpx.AsyncClient(trust_env=False) as http:
        known = ground_truth.read_jsonl((await http.get(f"{site.simlog.url}/record")).content)
    messages = [
        message.replace(b"{", b'{"id":"%b-%d",' % (batch.id.encode(), position), 1)
        for batch in await history(site.redis, site.keys, "full", "0-0", 1_000_000)
        for position, message in enumerate(batch.messages)
    ]
    delivery = Delivery("stream:full", "full", messages)
    verdict = judge(known, [delivery], tallies, by=by)
    assert verdict.flawless, f"\n{verdict}"
    expected = CERTIFICATES if by == "certificate" else CERTIFICATES // 2
    assert len(messages) == expected
    other: DedupBy = "issuance" if by == "certificate" else "certificate"
    assert not judge(known, [delivery], tallies, by=other).flawless
    issuances = {msgspec.json.decode(m)["data"]["leaf_cert"]["tbs_sha256"] for m in messages}
    assert len(issuances) == CERTIFICATES // 2
