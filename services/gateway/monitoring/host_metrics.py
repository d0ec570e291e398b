"""The metrics of all processes of this host.

The addresses of the other processes are in the registry in Redis. Their texts are joined without
parsing samples: parsing those of fifty logs and writing them again would block the event loop for
a tenth of a second.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from certbus.cluster_report import GatewayReport, IngestorReport
from certhttp.address import UNIX, is_here
from certhttp.client import fetch
from gateway.http.messages import NO_STORE, Response
from gateway.monitoring.collector import CONTENT_TYPE
from gateway.monitoring.report_cache import ReportCache

_TIMEOUT_SECS: Final = 1.0  # of a request to another process
_CACHE_TTL_SECS: Final = 0.5


_NAME: Final = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABELS: Final = r"\{[^\n]*\}"
_NUMBER: Final = r"(?:[+-]?[0-9.]+(?:e[+-]?[0-9]+)?|[+-]Inf|NaN)"

_FAMILY: Final = re.compile(
    rf"# HELP (?P<name>{_NAME}) [^\n]*\n# TYPE (?P=name) [a-z]+\n"
    rf"(?P<samples>(?:(?P=name)(?:_bucket|_count|_sum)?(?:{_LABELS})? {_NUMBER}\n)*)"
)
"""One family in the text format, as `generate_latest` writes it."""


class HostMetrics:
    """Collects the metrics of this host, at most twice per second.

    Args:
        reports: of the cluster.
        name: id of this gateway.
        admin: its admin address; None if it has none.
        own_metrics: returns the metrics of this gateway.
    """

    def __init__(
        self, reports: ReportCache, name: str, admin: str | None, own_metrics: Callable[[], bytes]
    ) -> None:
        self._reports = reports
        self._name = name
        self._address = admin or name
        self._own_metrics = own_metrics
        self._lock = asyncio.Lock()
        self._response: Response | None = None
        self._until = 0.0

    async def get(self) -> Response:
        """Return the metrics. Concurrent callers wait for the one that collects them."""
        async with self._lock:
            if self._response is None or time.monotonic() >= self._until:
                body = await self._collect()
                headers = (("Content-Type", CONTENT_TYPE), NO_STORE)
                self._response = Response(HTTPStatus.OK, headers, body)
                self._until = time.monotonic() + _CACHE_TTL_SECS
            return self._response

    async def _collect(self) -> bytes:
        report = await self._reports.get()
        gateways = self._on_this_host(report.gateways)
        gateways.pop(self._address, None)
        processes = {**gateways, **self._on_this_host(report.ingestors)}
        texts = await asyncio.gather(*(_fetch_metrics(each.admin) for each in processes.values()))
        names = _short([self._address, *processes])
        scrapes = [Scrape("gateway", names[0], self._own_metrics())]
        for process, name, text in zip(processes.values(), names[1:], texts, strict=True):
            kind = "ingestor" if isinstance(process, IngestorReport) else "gateway"
            scrapes.append(Scrape(kind, name, text))
        return merge_scrapes(scrapes)

    def _on_this_host(
        self, processes: Sequence[GatewayReport | IngestorReport]
    ) -> dict[str, GatewayReport | IngestorReport]:
        """Return the other processes of this host, by admin address or else by id.

        A replaced process remains in the registry for a while, with the address of its successor.
        """
        host = socket.gethostname()
        return {
            each.admin or each.id: each
            for each in processes
            if each.host == host and each.id != self._name
        }


async def _fetch_metrics(admin: str) -> bytes | None:
    """Return the metrics of a process; None without a response in time."""
    if not admin or not is_here(admin):
        return None
    response = await fetch(admin, "/metrics", _TIMEOUT_SECS)
    return response.body if response is not None and response.status == HTTPStatus.OK else None


def _short(addresses: Sequence[str]) -> list[str]:
    """Return short names if they are unique, else the addresses."""
    short = [Path(address).stem if address.startswith(UNIX) else address for address in addresses]
    return short if len(set(short)) == len(short) else list(addresses)


class Scrape(msgspec.Struct, frozen=True):
    """The metrics of one process.

    Attributes:
        kind: "gateway" or "ingestor": name of the label of its samples.
        name: value of that label.
        text: in the Prometheus text format; None if the process returned none.
    """

    kind: str
    name: str
    text: bytes | None


def merge_scrapes(scrapes: Sequence[Scrape]) -> bytes:
    """Join the metrics of processes.

    Returns:
        Text in the Prometheus format. A malformed text counts as none.
    """
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for each in scrapes:
        up = f"certstream_{each.kind}_up"
        about = "Whether the process returned its metrics. Needs an admin address."
        heads.setdefault(up, f"# HELP {up} {about}\n# TYPE {up} gauge\n")
        samples.setdefault(up, [])
    for each in scrapes:
        label = f'{each.kind}="{_escaped(each.name)}"'
        families = _read(each.text)
        samples[f"certstream_{each.kind}_up"].append(
            f"certstream_{each.kind}_up{{{label}}} {0.0 if families is None else 1.0}\n"
        )
        for name, (head, lines) in (families or {}).items():
            heads.setdefault(name, head)
            samples.setdefault(name, []).append(_labelled(lines, label))
    return "".join(head + "".join(samples[name]) for name, head in heads.items()).encode()


def _read(text: bytes | None) -> Mapping[str, tuple[str, str]] | None:
    """Split a text: family name -> (its HELP and TYPE lines, its samples); None if malformed."""
    if text is None:
        return None
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return None
    families: dict[str, tuple[str, str]] = {}
    end = 0
    while end < len(decoded):
        family = _FAMILY.match(decoded, end)
        if family is None:
            return None
        start, end = family.span()
        head = decoded[start : family.start("samples")]
        families[family["name"]] = head, family["samples"]
    return families


def _labelled(lines: str, label: str) -> str:
    """Add a label to each sample, before its other labels."""
    made = []
    for line in lines.split("\n")[:-1]:
        name, brace, rest = line.partition("{")
        if brace:
            made.append(f"{name}{{{label},{rest}\n")
        else:
            name, _, value = line.partition(" ")
            made.append(f"{name}{{{label}}} {value}\n")
    return "".join(made)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
