"""What should have been delivered against what was: nothing lost, nothing twice, nothing altered.

The oracle knows every certificate of a world by its record, and checks deliveries: what one
stream in Redis holds, or what one client received. It consists of pure functions; the caller
collects the deliveries.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from simlog.oracle.check_message import GroundTruth, MessageForm, MessageResult
from simlog.oracle.ground_truth import TruthEntry

DedupBy = Literal["certificate", "issuance"]

MAX_EXAMPLES = 5
"""Examples of one kind of problem that a verdict prints."""


class Delivery(msgspec.Struct, frozen=True):
    """What arrived at one place, in the order of arrival.

    Attributes:
        where: which stream or client, for people.
        form: the form of its messages.
        messages: JSON texts with their top-level `id`.
    """

    where: str
    form: MessageForm
    messages: Sequence[bytes]


class Tally(msgspec.Struct, frozen=True):
    """The server's counters of one log: numbers of entries, and indexes."""

    log: str
    start: int
    next: int
    published: int
    duplicates: int
    rejected: int = 0
    skipped: int = 0

    @property
    def accounted(self) -> int:
        """Number of entries that are counted: of a right tally, next - start."""
        return self.published + self.duplicates + self.rejected + self.skipped


class Findings(msgspec.Struct, frozen=True):
    """How one delivery differs from what it should be. Empty tuples: not at all.

    Attributes:
        where: which delivery.
        expected: distinct certificates that it should hold.
        received: certificate messages that it holds.
        lost: SHA-256 of those it lacks.
        repeated: SHA-256 of those it has more than once.
        uncommitted: messages about what a log showed and never committed to.
        unknown: messages about what no log of the world holds.
        altered: messages that differ from their certificate.
        disordered: ids that are not above the one before them.
        gaps: what `gap` messages report as missed.
    """

    where: str
    expected: int
    received: int
    lost: tuple[str, ...]
    repeated: tuple[str, ...]
    uncommitted: tuple[str, ...]
    unknown: tuple[str, ...]
    altered: tuple[str, ...]
    disordered: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def problems(self) -> Mapping[str, tuple[str, ...]]:
        """Each kind of problem found, with its examples."""
        kinds = ("lost", "repeated", "uncommitted", "unknown", "altered", "disordered", "gaps")
        return {kind: found for kind in kinds if (found := getattr(self, kind))}


class Verdict(msgspec.Struct, frozen=True):
    """The result. `str()` of it is for people.

    Attributes:
        findings: of each delivery.
        accounts: what is wrong with the tallies, one line each.
    """

    findings: tuple[Findings, ...]
    accounts: tuple[str, ...]

    @property
    def flawless(self) -> bool:
        """Whether no problem was found."""
        return not self.accounts and not any(each.problems for each in self.findings)

    def __str__(self) -> str:
        lines = []
        for each in self.findings:
            state = "but" if each.problems else "all as it should be"
            lines.append(f"{each.where}: {each.received} of {each.expected} certificates, {state}")
            for kind, found in each.problems.items():
                lines += [
                    f"  {len(found)} {kind}",
                    *(f"    {what}" for what in found[:MAX_EXAMPLES]),
                ]
        return "\n".join([*lines, *self.accounts])


def judge(
    record: Iterable[TruthEntry],
    deliveries: Sequence[Delivery],
    tallies: Sequence[Tally] = (),
    excused: Mapping[str, range] | None = None,
    by: DedupBy = "certificate",
) -> Verdict:
    """Compare what was delivered with what there was.

    Messages with the same id must be about the same certificate in every delivery, and lite must
    equal full in what both contain. Messages of the domains form contain only names: their id
    identifies them, so another delivery must hold the same messages in full or lite form.

    Args:
        record: every entry of the world.
        deliveries: each should hold every certificate of the record once.
        tallies: of every log; none at all: the accounts are not checked.
        excused: by log, the indexes that need not be delivered: withheld because the log
            misbehaved, or skipped because it cannot serve them. They may be delivered, but only as
            the log committed to them.
        by: what should be delivered once: each certificate, or of a precertificate and its
            certificate the one that came first.
    """
    truth = GroundTruth(record, excused)
    examined = [
        [truth.examine(delivery.form, text) for text in delivery.messages]
        for delivery in deliveries
    ]
    identities = {
        message.id: message
        for messages in reversed(examined)
        for message in messages
        if message.sha256
    }
    findings = tuple(
        _find(delivery.where, messages, truth, identities, by)
        for delivery, messages in zip(deliveries, examined, strict=True)
    )
    return Verdict(findings, tuple(_audit(tallies, truth, excused or {}, by)) if tallies else ())


def _find(
    where: str,
    messages: Iterable[MessageResult],
    truth: GroundTruth,
    identities: Mapping[str, MessageResult],
    by: DedupBy,
) -> Findings:
    counts: Counter[str] = Counter()
    received = 0
    uncommitted: list[str] = []
    unknown: list[str] = []
    altered: list[str] = []
    disordered: list[str] = []
    gaps: list[str] = []
    previous = None
    for message in messages:
        if message.kind == "heartbeat":
            continue
        if message.kind == "gap":
            gaps += message.problems
            continue
        received += 1
        identity = identities.get(message.id)
        if identity is None:
            unknown.append(f"id {message.id!r}: {message.problems or message.names}")
            continue
        counts[_key(truth, identity.sha256, by)] += 1
        if identity.uncommitted:
            uncommitted.append(f"id {message.id}: {identity.uncommitted}")
            continue
        altered += [f"id {message.id}: {problem}" for problem in message.problems]
        if message.names != identity.names or message.core not in (identity.core, b""):
            altered.append(f"id {message.id}: differs in another delivery")
        if previous is not None and message.order <= previous.order:
            disordered.append(f"{message.id} after {previous.id}")
        previous = message
    owed = {_key(truth, sha256, by) for sha256 in truth.owed}
    return Findings(
        where=where,
        expected=len(owed),
        received=received,
        lost=tuple(owed - counts.keys()),
        repeated=tuple(sha256 for sha256, count in counts.items() if count > 1),
        uncommitted=tuple(uncommitted),
        unknown=tuple(unknown),
        altered=tuple(altered),
        disordered=tuple(disordered),
        gaps=tuple(gaps),
    )


def _audit(
    tallies: Iterable[Tally], truth: GroundTruth, excused: Mapping[str, range], by: DedupBy
) -> Iterable[str]:
    """Check that the counters account for every entry of every log, and for nothing else."""
    sizes = Counter(log for log, _ in truth.by_place)
    published = 0
    for tally in tallies:
        done = tally.accounted
        if done != tally.next - tally.start:
            yield f"{tally.log}: {done} of {tally.next - tally.start} entries accounted: {tally}"
        published += tally.published
        size, excuse = sizes.pop(tally.log, 0), excused.get(tally.log, range(0))
        if tally.next != size and tally.next not in excuse:
            yield f"{tally.log}: position is {tally.next} of {size}"
        if tally.skipped > len(excuse):
            yield f"{tally.log}: {tally.skipped} entries skipped, {len(excuse)} for a reason"
        malformed = truth.malformed[tally.log]
        if tally.rejected != malformed and not excuse:
            yield f"{tally.log}: {tally.rejected} entries rejected, {malformed} are malformed"
    yield from (f"{log}: nothing accounted of {size} entries" for log, size in sizes.items())
    owed, known = ({_key(truth, each, by) for each in s} for s in (truth.owed, truth.by_sha256))
    if not len(owed) <= published <= len(known):
        yield f"{published} published of {len(owed)} certificates"


def _key(truth: GroundTruth, sha256: str, by: DedupBy) -> str:
    """Return what identifies a certificate, or its issuance."""
    if by == "certificate" or sha256 not in truth.by_sha256:
        return sha256
    return f"issuance {truth.by_sha256[sha256].issuance}"
