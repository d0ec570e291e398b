"""Reads a range of one log, proven against one tree head."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

from certconf.settings import CTLog
from ctparse.entry import Entry, Rejected, Unreadable
from ctparse.merkle import BadProof, Frontier
from ctparse.signatures import LogKey
from ctparse.tree_head import TreeHead
from ctparse.v2_message import Verification, v2_message
from ctparse.wire_messages import MessageWriter, Source
from ingestor.backoff import Backoff
from ingestor.client.errors import IntegrityViolation, LogError, UnexpectedStatus
from ingestor.client.interface import LogClient
from ingestor.cpu import Cpu
from ingestor.log import Log
from ingestor.pipeline.page_size import PageSize
from ingestor.pipeline.prefetch import InFlight, Prefetch
from ingestor.verification.entry_proofs import (
    bare_leaf_hashes,
    leaf_hashes,
    verify_prefix_inclusion,
)
from ingestor.verification.precerts import PrecertCheck
from ingestor.verification.tree_heads import check_signature

MAX_IN_FLIGHT: Final = 4
"""Requests at the same time."""

_MAX_FAILURES: Final = 8  # in a row
_MAX_REFUSALS: Final = 3  # of a proof: one replica may not have what another one has signed
_RETRY: Final = Backoff(1.0, 30.0)

T = TypeVar("T")


class Unproven(Exception):
    """An entry is not in the tree of the head, as far as the log proves it.

    Attributes:
        index: of the entry.
    """

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(f"entry {index} is not proven: {problem}")
        self.index = index


class Part(msgspec.Struct, frozen=True):
    """Consecutive entries that are proven.

    Attributes:
        next: index after the last.
        messages: index and message (version 2) of each that can be read.
        rejected: those that cannot.
    """

    next: int
    messages: list[tuple[int, bytes]]
    rejected: list[Rejected]


class Backfill:
    """Reads one log up to one tree head.

    Args:
        log: the log.
        client: reads it.
        key: verifies its tree head; None if it is not known.
        cpu: of this process.
        settings: `ct_log`.

    Attributes:
        head: the tree head; set by `read_head`.
    """

    head: TreeHead

    def __init__(
        self, log: Log, client: LogClient, key: LogKey | None, cpu: Cpu, settings: CTLog
    ) -> None:
        self._log = log
        self._client = client
        self._key = key
        self._page = PageSize(log.batch_size or settings.batch_size, client.tile)
        self._precerts = PrecertCheck(client, cpu)
        self._hashes = leaf_hashes  # or the form that a hybrid log has in its tree
        source = Source(log.name, f"{log.base}/", log.operator, log.kind.value)
        # Messages of version 2 have no chain.
        self._writer = MessageWriter(source, client.entry_url, lambda _: ())
        self._verification = Verification("verified" if key else "unverified", "verified")

    async def read_head(self) -> None:
        """Request the newest tree head.

        Raises:
            LogError: the log cannot be read, or has not signed it.
        """
        self.head = await _repeat(self._client.tree_head)
        check_signature(self._log, self._key, self.head)

    async def find(self, moment: int) -> int:
        """Return the first entry whose timestamp is not earlier than `moment`, ms.

        By binary search; the size of the tree if all are earlier.

        Raises:
            LogError: an entry cannot be read.
            Unproven: the leaf of an entry is not known.
        """
        low, high, tile = 0, self.head.size, self._client.tile
        while low < high:
            middle = (low + high) // 2
            # A static-ct log has tiles of full width, and those of the width at its head.
            end = middle + 1 if tile is None else (middle // tile + 1) * tile
            end = min(end, self.head.size)
            entry = (await _repeat(lambda: self._client.entries(middle, end)))[0]  # noqa: B023
            if not entry.leaf:
                raise Unproven(middle, "its timestamp is not known")
            # MerkleTreeLeaf: version and leaf type, then the timestamp (RFC 6962 section 3.4).
            if int.from_bytes(entry.leaf[2:10]) < moment:
                low = middle + 1
            else:
                high = middle
        return low

    async def parts(self, first: int, last: int) -> AsyncGenerator[Part]:
        """Yield the entries from `first` to `last`, both included, as they are proven.

        Raises:
            Unproven: an entry is not proven; those before it were yielded.
            LogError: the log cannot be read.
        """
        end, tile = last + 1, self._client.tile
        frontier = await self._frontier(first)
        prefetch = Prefetch(self._client, first, self._page, InFlight(MAX_IN_FLIGHT))
        # A static-ct log has tiles of full width, and those of the width at its head.
        prefetch.extend(end if tile is None else min(-(-end // tile) * tile, self.head.size))
        try:
            while prefetch.next < end:
                run = await _repeat(lambda: prefetch.run(end))
                entries = [entry for window in run for entry in window.entries]
                count, problem = await self._prove(frontier, entries)
                if count:
                    frontier.extend(self._hashes(entries[:count]))
                    yield await self._part(frontier.size, entries[:count])
                if problem:
                    raise Unproven(frontier.size, problem)
                prefetch.take(frontier.size)
        finally:
            await prefetch.restart(first)

    async def _frontier(self, first: int) -> Frontier:
        """Return the frontier of the leaves before an entry.

        Raises:
            Unproven: the log does not prove this entry.
        """
        if first == 0:
            return Frontier()
        problem = ""
        for refusals in range(_MAX_REFUSALS):
            await _pause(refusals)
            try:
                proof = await _repeat(lambda: self._client.inclusion(first, self.head.size))
                return Frontier.before_leaf(
                    first, self.head.size, proof.leaf, proof.path, self.head.root
                )
            except (BadProof, UnexpectedStatus) as error:
                if _is_unavailable(error):
                    raise
                problem = str(error)
        raise Unproven(first, f"no valid proof ({problem})")

    async def _prove(
        self, frontier: Frontier, entries: Sequence[Entry | Rejected]
    ) -> tuple[int, str]:
        """Return how many of the entries are proven, and why the next one is not.

        Without a reason, the next ones may be proven, too.
        """
        known = next((n for n, entry in enumerate(entries) if not entry.leaf), len(entries))
        problem = ""
        if known < len(entries):
            problem = f"its leaf is not known{_suffix(entries[known])}"
        if not known or await self._is_proven(frontier, entries[:known]):
            return known, problem
        proven, unproven = 0, known
        while unproven - proven > 1:
            middle = (proven + unproven) // 2
            if await self._is_proven(frontier, entries[:middle]):
                proven = middle
            else:
                unproven = middle
        for refusals in range(1, _MAX_REFUSALS):
            await _pause(refusals)
            if await self._is_proven(frontier, entries[:unproven]):
                return unproven, ""
        suffix = _suffix(entries[proven])
        return proven, f"the tree of {self.head.size} entries does not have it{suffix}"

    async def _is_proven(self, before: Frontier, entries: Sequence[Entry | Rejected]) -> bool:
        """Return whether the log proves that entries follow a frontier in the tree of the head.

        Of a hybrid log, in the form that was proven last, or in the other one.
        """
        forms = [self._hashes]
        if self._log.is_hybrid:
            forms.append(leaf_hashes if self._hashes is bare_leaf_hashes else bare_leaf_hashes)
        for hashes in forms:
            if await self._are_leaves(before, hashes(entries)):
                self._hashes = hashes
                return True
        return False

    async def _are_leaves(self, before: Frontier, leaves: Sequence[bytes]) -> bool:
        """Return whether the log proves that leaves follow a frontier in the tree of the head."""
        frontier, head = before.copy(), self.head
        frontier.extend(leaves)
        if frontier.size == head.size and frontier.root() == head.root:
            return True
        last = leaves[-1]
        try:
            proof = await _repeat(
                lambda: self._client.inclusion(frontier.size - 1, head.size, last)
            )
            return verify_prefix_inclusion(frontier, last, proof.leaf, proof.path, head)
        except (BadProof, UnexpectedStatus) as error:
            if _is_unavailable(error):
                raise
            return False

    async def _part(self, end: int, entries: Sequence[Entry | Rejected]) -> Part:
        forged = {each.position: each.rejected for each in await self._precerts.mismatches(entries)}
        messages: list[tuple[int, bytes]] = []
        rejected: list[Rejected] = []
        for position, entry in enumerate(entries):
            if isinstance(entry, Rejected) or position in forged:
                rejected.append(entry if isinstance(entry, Rejected) else forged[position])
                continue
            try:
                # Not the present time, so that a run that is resumed writes the same.
                seen = entry.timestamp / 1000
                message = self._writer.write(entry, sha256(entry.certificate).digest(), seen)
            except Unreadable as error:
                rejected.append(Rejected(entry.index, str(error), entry.certificate))
                continue
            text = v2_message(message.lite, self._log.key_sha256, self._verification)
            messages.append((entry.index, text))
        return Part(end, messages, rejected)


async def _repeat(call: Callable[[], Awaitable[T]]) -> T:
    """Return `call()`, repeated while the log is unavailable.

    Raises:
        LogError: of the last attempt, or one that repetition does not change.
    """
    failures = 0
    while True:
        try:
            return await call()
        except IntegrityViolation:
            raise
        except LogError as error:
            failures += 1
            is_final = isinstance(error, UnexpectedStatus) and error.status < 500
            if is_final or failures == _MAX_FAILURES:
                raise
        await _pause(failures)


async def _pause(failures: int) -> None:
    """Wait before a request that has failed this many times."""
    if failures:
        await asyncio.sleep(_RETRY(failures - 1))


def _suffix(entry: Entry | Rejected) -> str:
    return f" ({entry.reason})" if isinstance(entry, Rejected) else ""


def _is_unavailable(error: Exception) -> bool:
    """Whether a log that does not give a proof states nothing about the entry."""
    return isinstance(error, UnexpectedStatus) and error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
