"""The lists as one ingestor has them: from the shelf in Redis, else the package, else their server.

    look      take over what is on the shelf, after verifying it again
    refresh   ask the servers of the lists that are due, and put what is good onto the shelf

Every ingestor looks every few seconds and so has the same lists as the others; each list is fetched
by one of them, once an hour, sooner after a failure or when somebody hurries it. Whatever a server
gives, the list held stays until a newer one is believed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from certbus.caches.log_lists import ListStatus, LogListCache, RawList
from certconf.settings import LogList as Setting
from ingestor.backoff import LOG_LIST, Backoff
from ingestor.client.errors import LogError, ResponseTooLarge, UnexpectedStatus
from ingestor.client.http import Fetcher, Validators, Version
from ingestor.loglists.parser import LogList
from ingestor.loglists.source import REASONS, ListRejected, Reason, Source, VerifiedList

EVERY = 3600.0
"""Seconds from one request to a list's server to the next."""

_REFRESH = Backoff(EVERY, EVERY)
# How long whoever claims a list may take; longer than the time-outs of both requests together.
_CLAIM = 60.0
_MAX_LIST = 4 << 20
_MAX_SIGNATURE = 16 << 10

_log = structlog.get_logger(__name__)


class LogListStore:
    """The configured lists.

    Args:
        settings: which, in order of precedence.
        shelf: where every ingestor finds them.
        fetcher: makes what reads URLs, once for each list and attempt, so that one server's wish
            to be left alone concerns nobody else.
    """

    def __init__(
        self, settings: Sequence[Setting], shelf: LogListCache, fetcher: Callable[[str], Fetcher]
    ) -> None:
        self.sources = tuple(Source(setting) for setting in settings)
        self.refusals: Counter[tuple[str, Reason]] = Counter(
            {(source.name, reason): 0 for source in self.sources for reason in REASONS}
        )
        self._shelf = shelf
        self._fetcher = fetcher
        self._held: dict[Source, VerifiedList] = {}
        self._slips: dict[Source, ListStatus] = {}
        self._told: dict[Source, Reason] = {}  # what was said of it last, until it is good again
        for source in self.sources:
            if (shipped := source.bundled()) is not None:
                self._held[source] = shipped

    @property
    def lists(self) -> list[tuple[Source, LogList]]:
        """Those there are, the signed ones first."""
        held = [
            (source, self._held[source].says) for source in self.sources if source in self._held
        ]
        return sorted(held, key=lambda each: not each[0].is_signed)

    @property
    def has_all(self) -> bool:
        """Whether there is a copy of each."""
        return len(self._held) == len(self.sources)

    @property
    def is_ready(self) -> bool:
        """Whether there is a copy of each, or its server gave none when it was last asked."""
        tried = {source for source, slip in self._slips.items() if slip.failures}
        return tried | self._held.keys() >= set(self.sources)

    def ages(self, now: float | None = None) -> dict[str, float]:
        """Seconds since each list, by its name, was last known to be its publisher's newest.

        A list that nobody has fetched yet is as old as it says; one that does not say is left out.
        """
        now = time.time() if now is None else now
        ages = {}
        for source, held in self._held.items():
            checked = self._slips[source].checked if source in self._slips else None
            since = held.edition.published_at if checked is None else checked / 1000
            if since is not None:
                ages[source.name] = max(0.0, now - since)
        return ages

    async def load(self) -> None:
        """Take over what is newer on the shelf, and put there what it lacks.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        slips = await self._shelf.statuses(source.id for source in self.sources)
        for source, slip in zip(self.sources, slips, strict=True):
            self._slips[source] = slip
            held = self._held.get(source)
            if held is not None and slip.digest == held.edition.digest:
                continue
            if slip.digest:
                await self._take(source, slip)
                held = self._held.get(source)
            if held is not None and slip.digest != held.edition.digest:
                await self._keep(source, held)

    async def refresh(self) -> None:
        """Ask the servers of the lists that are due.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        await asyncio.gather(*(self._refresh(source) for source in self.sources))

    async def _take(self, source: Source, slip: ListStatus) -> None:
        copy = await self._shelf.load(source.id)
        if copy is None:
            return
        try:
            judged = source.verify(copy)
        except ListRejected as refusal:
            # Whoever put it there was told a lie by Redis, or another version believes more.
            self._refuse(source, refusal, "redis")
            await self._shelf.delete(source.id, slip.digest)
            return
        held = self._held.get(source)
        if held is None or judged.edition.rank >= held.edition.rank:
            self._hold(source, judged, "redis")

    async def _refresh(self, source: Source) -> None:
        if not await self._shelf.claim_refresh(source.id, _CLAIM):
            return
        slip = self._slips.get(source, ListStatus(source.id))
        held = self._held.get(source)
        # What the server calls its copy is of use only if that is the copy held here.
        same = held is not None and held.edition.digest == slip.digest
        had = Validators(slip.etag, slip.modified) if same else Validators()
        try:
            found = await self._fetch(source, had)
            if found is not None:
                judged, had = found
                await self._accept(source, judged)
        except ListRejected as refusal:
            self._refuse(source, refusal, source.url)
            again = max(LOG_LIST(slip.failures), refusal.wait)
            await self._shelf.record_failure(source.id, again, f"{refusal.reason}: {refusal}")
            return
        if self._told.pop(source, None) is not None:
            _log.info("log list is good again", list=source.name)
        await self._shelf.record_success(source.id, _REFRESH(0), had.etag, had.modified)

    async def _fetch(
        self, source: Source, had: Validators
    ) -> tuple[VerifiedList, Validators] | None:
        """Get a list and its signature; None if it is the one that was had."""
        fetcher = self._fetcher(source.name)
        version = await _get(fetcher, source.setting.url, _MAX_LIST, had)
        if version is None:
            return None
        signature = b""
        if source.signature_url is not None:
            try:
                signed = await _get(fetcher, source.signature_url, _MAX_SIGNATURE, Validators())
            except ListMissing as error:
                raise ListRejected("signature", str(error)) from error
            signature = signed.body if signed is not None else b""
        return source.verify(RawList(version.body, signature)), version.validators

    async def _accept(self, source: Source, judged: VerifiedList) -> None:
        held = self._held.get(source)
        if held is not None and judged.edition.rank < held.edition.rank:
            older, newer = judged.edition.version, held.edition.version
            raise ListRejected("older", f"version {older!r} is older than {newer!r}, which is held")
        if not await self._keep(source, judged):
            raise ListRejected(
                "older", f"version {judged.edition.version!r} is older than Redis' copy"
            )
        if held is None or held.edition.digest != judged.edition.digest:
            self._hold(source, judged, source.url)

    async def _keep(self, source: Source, judged: VerifiedList) -> bool:
        return await self._shelf.store(
            source.id, source.name, source.url, judged.copy, judged.edition
        )

    def _hold(self, source: Source, judged: VerifiedList, place: str) -> None:
        self._held[source] = judged
        unreadable = judged.says.unreadable
        _log.info(
            "log list read",
            list=source.name,
            version=judged.edition.version,
            logs=len(judged.says.logs),
            place=place,
        )
        if unreadable:
            _log.warning(
                "log list has entries that cannot be read",
                list=source.name,
                entries=len(unreadable),
                first=unreadable[0],
            )

    def _refuse(self, source: Source, refusal: ListRejected, place: str) -> None:
        """Count a refusal, and tell it unless the same was told before."""
        self.refusals[source.name, refusal.reason] += 1
        if self._told.get(source) == refusal.reason:
            return
        self._told[source] = refusal.reason
        held = self._held.get(source)
        _log.warning(
            "log list refused",
            list=source.name,
            place=place,
            reason=refusal.reason,
            problem=str(refusal),
            held=None if held is None else held.edition.version,
        )


class ListMissing(ListRejected):
    """A server answers, but has nothing there."""


async def _get(fetcher: Fetcher, place: str, limit: int, had: Validators) -> Version | None:
    """Read a URL or a file; None if a URL still has what was had.

    Raises:
        Refusal: it cannot be had.
    """
    try:
        if place.startswith(("https://", "http://")):
            return await fetcher.get_external(place, limit, had)
        path = Path(place.removeprefix("file://"))
        return Version(await asyncio.to_thread(_read, path, limit), Validators())
    except ResponseTooLarge as error:
        raise ListRejected("too_large", error.summary) from error
    except UnexpectedStatus as error:
        kind = ListMissing if error.status in (404, 410) else ListRejected
        raise kind("unreachable", error.summary, error.retry_after or 0.0) from error
    except LogError as error:
        raise ListRejected("unreachable", error.summary) from error
    except OSError as error:
        raise ListRejected("unreachable", str(error)) from error


def _read(path: Path, limit: int) -> bytes:
    """The contents of a file.

    Raises:
        OSError: it cannot be read, or has more than `limit` bytes.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} has more than {limit:,} bytes")
    return content
