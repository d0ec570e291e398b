"""The log lists of one ingestor: from the cache in Redis, this package, or their servers.

    load      take over what is in the cache, after verifying it again
    refresh   request the lists that are due from their servers, and cache what is accepted

Every ingestor polls the cache every few seconds, so all use the same lists. One of them fetches
each list, in the interval that is configured; sooner after a failure or on request. Whatever a
server returns, the current list remains until a newer one is accepted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from certbus.caches.log_lists import ListStatus, LogListCache, RawList
from certconf.settings import LogList as Setting
from ingestor.backoff import LOG_LIST, Backoff
from ingestor.client.errors import LogError, ResponseTooLarge, UnexpectedStatus
from ingestor.client.http import Fetcher, Validators, Version
from ingestor.loglists.parser import LogList
from ingestor.loglists.source import REASONS, ListRejected, Reason, Source, VerifiedList

# Between two requests to a list's server, if they are made on request only.
_NEVER_SECS = 10 * 365 * 86400.0
# For which a list is claimed: longer than the time-outs of both requests together.
_CLAIM_TTL_SECS = 60.0
_MAX_LIST_BYTES = 4 << 20
_MAX_SIGNATURE_BYTES = 16 << 10

_log = structlog.get_logger(__name__)


class _List(msgspec.Struct):
    """One configured list.

    Attributes:
        source: where it comes from.
        status: in Redis, as last read.
        current: the accepted copy.
        rejection: reason of the last rejection, until a copy is accepted.
    """

    source: Source
    status: ListStatus
    current: VerifiedList | None
    rejection: Reason | None = None


class LogListStore:
    """The configured lists. The catalog's tasks own it.

    Args:
        settings: the lists, in order of precedence.
        cache: the lists in Redis.
        fetcher: makes what reads URLs, once for each list and attempt, so that one server's
            Retry-After delays no other list.
        interval: seconds between two requests to a list's server; 0: on request only.

    Attributes:
        sources: where the lists come from.
        rejections: number of lists rejected or not obtained, by list and reason.
    """

    def __init__(
        self,
        settings: Sequence[Setting],
        cache: LogListCache,
        fetcher: Callable[[str], Fetcher],
        interval: float = 3600.0,
    ) -> None:
        self.sources = [Source(setting) for setting in settings]
        self.rejections: Counter[tuple[str, Reason]] = Counter(
            {(source.name, reason): 0 for source in self.sources for reason in REASONS}
        )
        self._lists = [_List(each, ListStatus(each.id), each.bundled()) for each in self.sources]
        self._cache = cache
        self._fetcher = fetcher
        interval = interval or _NEVER_SECS
        self._refresh_after = Backoff(interval, interval)

    @property
    def lists(self) -> list[tuple[Source, LogList]]:
        """The current lists, the signed ones first."""
        current = [(one.source, one.current.content) for one in self._lists if one.current]
        return sorted(current, key=lambda each: not each[0].is_signed)

    @property
    def has_all(self) -> bool:
        """Whether every list has a current copy."""
        return all(one.current for one in self._lists)

    @property
    def is_ready(self) -> bool:
        """Whether every list has a current copy, or its last request failed."""
        return all(one.current or one.status.failures for one in self._lists)

    def ages(self, now: float | None = None) -> dict[str, float]:
        """Return the seconds since each list, by name, was known to be its publisher's newest.

        A list that was never fetched is as old as its own date; without a date it is left out.
        """
        now = time.time() if now is None else now
        ages = {}
        for one in self._lists:
            if one.current is not None:
                checked = one.status.checked
                since = one.current.version.published_at if checked is None else checked / 1000
                if since is not None:
                    ages[one.source.name] = max(0.0, now - since)
        return ages

    async def load(self) -> None:
        """Take over newer lists from the cache, and store there what it lacks.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        statuses = await self._cache.statuses([one.source.id for one in self._lists])
        for one, status in zip(self._lists, statuses, strict=True):
            one.status = status
            if one.status.digest and not _is_current(one):
                await self._load(one)
            if one.current is not None and not _is_current(one):
                await self._store(one, one.current)

    async def refresh(self) -> None:
        """Request the lists that are due from their servers.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        await asyncio.gather(*map(self._refresh, self._lists))

    async def _load(self, one: _List) -> None:
        raw = await self._cache.load(one.source.id)
        if raw is None:
            return
        try:
            verified = one.source.verify(raw)
        except ListRejected as rejection:
            # It was damaged in Redis, or another release accepts more.
            self._reject(one, rejection, "redis")
            await self._cache.delete(one.source.id, one.status.digest)
            return
        if one.current is None or verified.version.rank >= one.current.version.rank:
            self._use(one, verified, "redis")

    async def _refresh(self, one: _List) -> None:
        source, latest = one.source, 2 * self._refresh_after.maximum
        if not await self._cache.claim_refresh(source.id, _CLAIM_TTL_SECS, latest):
            return
        status = one.status
        # The validators are those of the cached copy; they are useful only if it is current here.
        same = _is_current(one)
        validators = Validators(status.etag, status.modified) if same else Validators()
        try:
            found = await self._fetch(source, validators)
            if found is not None:
                verified, validators = found
                await self._accept(one, verified)
        except ListRejected as rejection:
            self._reject(one, rejection, source.url)
            again = max(LOG_LIST(status.failures), rejection.wait)
            problem = f"{rejection.reason}: {rejection}"
            await self._cache.record_failure(source.id, source.name, source.url, again, problem)
            return
        if one.rejection is not None:
            one.rejection = None
            _log.info("log list recovered", list=source.name)
        await self._cache.record_success(
            source.id, self._refresh_after(0), validators.etag, validators.modified
        )

    async def _fetch(
        self, source: Source, validators: Validators
    ) -> tuple[VerifiedList, Validators] | None:
        """Fetch a list and its signature; None if it has not changed."""
        fetcher = self._fetcher(source.name)
        version = await _get(fetcher, source.setting.url, _MAX_LIST_BYTES, validators)
        if version is None:
            return None
        signature = b""
        if source.signature_url is not None:
            try:
                signed = await _get(
                    fetcher, source.signature_url, _MAX_SIGNATURE_BYTES, Validators()
                )
            except ListMissing as error:
                raise ListRejected("signature", str(error)) from error
            signature = signed.body if signed is not None else b""
        return source.verify(RawList(version.body, signature)), version.validators

    async def _accept(self, one: _List, verified: VerifiedList) -> None:
        version, current = verified.version, one.current
        if current is not None and version.rank < current.version.rank:
            newer = current.version.version
            problem = f"version {version.version!r} is older than the current {newer!r}"
            raise ListRejected("older", problem)
        if not await self._store(one, verified):
            raise ListRejected("older", f"version {version.version!r} is older than Redis' copy")
        if current is None or current.version.digest != version.digest:
            self._use(one, verified, one.source.url)

    async def _store(self, one: _List, verified: VerifiedList) -> bool:
        source = one.source
        return await self._cache.store(
            source.id, source.name, source.url, verified.raw, verified.version
        )

    def _use(self, one: _List, verified: VerifiedList, origin: str) -> None:
        one.current = verified
        unreadable = verified.content.unreadable
        _log.info(
            "log list accepted",
            list=one.source.name,
            version=verified.version.version,
            logs=len(verified.content.logs),
            origin=origin,
        )
        if unreadable:
            _log.warning(
                "log list entries rejected",
                list=one.source.name,
                entries=len(unreadable),
                first=unreadable[0],
            )

    def _reject(self, one: _List, rejection: ListRejected, origin: str) -> None:
        """Count a rejection, and log it unless the last one had the same reason."""
        self.rejections[one.source.name, rejection.reason] += 1
        if one.rejection == rejection.reason:
            return
        one.rejection = rejection.reason
        _log.warning(
            "log list rejected",
            list=one.source.name,
            origin=origin,
            reason=rejection.reason,
            problem=str(rejection),
            current=None if one.current is None else one.current.version.version,
        )


def _is_current(one: _List) -> bool:
    """Return whether the copy in Redis is the current one."""
    return one.current is not None and one.current.version.digest == one.status.digest


class ListMissing(ListRejected):
    """The server has no such file."""


async def _get(
    fetcher: Fetcher, location: str, limit: int, validators: Validators
) -> Version | None:
    """Read a URL or a file; None if the URL has not changed.

    Raises:
        ListRejected: it cannot be read.
    """
    try:
        if location.startswith(("https://", "http://")):
            return await fetcher.get_external(location, limit, validators)
        path = Path(location.removeprefix("file://"))
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
    """Return the contents of a file.

    Raises:
        OSError: it cannot be read, or has more than `limit` bytes.
    """
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} has more than {limit:,} bytes")
    return content
