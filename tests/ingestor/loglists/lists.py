"""simlog's log lists, as settings and by their switches."""

from typing import Any

import httpx
import msgspec

from certconf.settings import LogList
from ingestor.loglists.source import Source
from simlog.api.log_list import Edition
from tests.ingestor.site import Site

LISTED_ONLY: dict[str, Any] = {"custom_logs": [], "static_logs": [], "ct_log.start_index": 0}


async def signed(site: Site) -> dict[str, Any]:
    """The setting of simlog's signed list."""
    key = await site.simlog.save("log_list_pubkey.pem")
    url = site.simlog.url
    return {"url": f"{url}/log_list.json", "signature_url": f"{url}/log_list.sig", "key": str(key)}


def unsigned(site: Site) -> dict[str, Any]:
    """The setting of simlog's unsigned list."""
    return {"url": f"{site.simlog.url}/unsigned_list.json", "unsigned": True}


def list_id(settings: dict[str, Any]) -> str:
    """What the first of these `log_lists` is called in Redis."""
    return Source(msgspec.convert(settings["log_lists"][0], LogList)).id


async def publish(site: Site, edition: Edition, which: str = "log_list") -> None:
    """Replace a list of simlog by another edition."""
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{site.simlog.url}/control/lists/{which}"
        answer = await http.put(url, content=msgspec.json.encode(edition))
    assert answer.status_code == 200, answer.text
