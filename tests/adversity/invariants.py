"""What must hold after a run, whatever went wrong in it. Pure.

Of what Redis held (`lines.py`) and of each client:

* Each entry that the logs serve was published, in some line; in the last one, unless Redis was
  emptied.
* A message that Redis still holds has reached every client that began before it, gap or no gap: a
  gap is for what cannot be delivered.
* A message that Redis does not hold any more, because it was trimmed or was lost with its line,
  has reached the client, or its certificate has under another id, or the client got a `gap` at the
  place where it is missing: after everything that the client has from before it, and before
  anything after it.
* A certificate comes a second time only after a `gap`: one with another reason than trimming, or
  any once Redis has lost something. A gateway that began after the loss and finds an id trimmed
  cannot know that the id was lost, too.
  If nothing was published after Redis lost its line, there is no place for the gap. If Redis was
  emptied before it got again what it had lost, the gap is that of the emptied Redis.
* What only the last line has comes a second time under its id in one case: since the first time,
  the client read from a gateway with an earlier line, as one that is cut off with its primary, or
  `tail` after the id that it had stored. From the ids of that line a client returns to where both
  lines part. A message, or an id in a gap, that only an earlier line has shows such a gateway; or a
  gap because the id of the client is ahead of the stream.
* Between two gaps, ids ascend.
* What clients get was in Redis, and agrees with its certificate; with a filter, all of it passes,
  and only what passes is owed.
* No connection ends because a client could not read what it got.
* Only the owner of a log's lease publishes, and the frontier of a log ends at its position.
* No line has a certificate twice, unless the clock of Redis jumped by as much as marks last, and
  stayed there for a minute, after which ages count. The end of a shorter jump back is a jump ahead
  that lasts: it concerns the marks made during this time.
* No gap is sent for nothing: of the lines that have its `oldest`, one at least lacks, or has
  trimmed by its end, what `requested` names. A gap is after the last message of a client that has
  no filter, and its `oldest` is not above what follows on the same connection. A gap of trimming
  reports only what is between the two.
* `tail --cursor-file` may repeat what it printed in its last moments before it was killed.

And of each log, after each command that Redis executed: published + duplicates + rejected +
skipped = next - start. Only what a log holds that is no certificate, or shows in place of a
precertificate, is rejected, and only a log that was far behind skips.

No operator gets more requests than its rate, no ingestor and no gateway takes more memory than
`MAX_MIB`, and Redis counts the connections that gateways have.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from certbus.ids import parse_cursor
from certbus.streams.events import (
    CURSOR_AHEAD_REASON,
    FORGOTTEN,
    NOT_RETAINED_REASON,
    RESET,
)
from simlog.api.request_stats import Counts
from simlog.oracle.check_message import GroundTruth, MessageForm
from simlog.oracle.oracle import Tally
from tests.adversity.clients import Line as Noted
from tests.adversity.clients import Profile, passes
from tests.adversity.lines import Held, Line, entry_of
from tests.adversity.tail import REPEATS_SECS, ended_wrongly
from tests.e2e.invariants import order_of

SHOWN: Final = 4
"""How many examples of one kind of trouble are printed."""


EXPIRY_SECS: Final = 3600.0
"""By so much the clock of Redis must jump for marks and certificates to expire in a run: the time
for which runs retain them."""

STEADY_SECS: Final = 60.0
"""Seconds after a jump of the clock of Redis in which no age counts (docs/guarantees.md)."""

RATE_SPAN_SECS: Final = 20.0
"""Requests to an operator are counted in each span of this length."""

MAX_MIB: Final = 400.0
"""What an ingestor or a gateway may take. Logs without faults leave an ingestor at about 80 MiB.
Endless responses are read to their limits, and 256 MiB may be read ahead
(`prefetch.MAX_PROCESS_BYTES`). A gateway has full rings after some minutes."""

_UNREADABLE: Final = re.compile(rb"sent 100[279]|DecodeError|AssertionError")
_EARLIER: Final = -1
_LATER: Final = 1 << 62


class Trouble(msgspec.Struct, frozen=True):
    """One way in which a promise was broken.

    Attributes:
        where: a client, a log, a process, or Redis.
        kind: which promise.
        examples: of what.
    """

    where: str
    kind: str
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = "".join(f"\n    {example}" for example in self.examples[:SHOWN])
        return f"{self.where}: {len(self.examples)} {self.kind}{shown}"


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message that a client got.

    Attributes:
        at: seconds since the epoch.
        id: its id.
        order: the same as numbers.
        sha256: of its certificate; empty if Redis never held it.
        problems: fields that differ from its certificate.
        passes: whether it passes the filter of filtered clients.
        stored: the id that a process of `tail` began after, whose first message it is that does not
            repeat an earlier process; empty otherwise.
    """

    at: float
    id: str
    order: tuple[int, ...]
    sha256: str
    problems: tuple[str, ...]
    passes: bool = True
    stored: str = ""

    @property
    def content(self) -> str:
        """What it is about, whatever its id."""
        return self.sha256


class Gap(msgspec.Struct, frozen=True, gc=False):
    """A gap message that a client got.

    Attributes:
        at: seconds since the epoch.
        requested: as in the message.
        oldest: as in the message.
        reason: as in the message.
        is_before_repeats: whether it follows an id that `tail` had stored before it printed more.
        is_last: whether its connection ended with it.
    """

    at: float
    requested: str
    oldest: str | None
    reason: str
    is_before_repeats: bool = False
    is_last: bool = False

    @property
    def content(self) -> str:
        """What it reports."""
        return f"{self.requested} {self.oldest} {self.reason}"

    @property
    def id(self) -> str:
        """The same: it has no id."""
        return self.content

    @property
    def announces_repeats(self) -> bool:
        """Whether certificates may come again after it."""
        return self.reason != NOT_RETAINED_REASON


Item = Message | Gap


class Client(msgspec.Struct, frozen=True):
    """What a client got, in the order of arrival.

    Attributes:
        name: of the client.
        form: of its messages.
        items: everything but heartbeats.
        unreadable: why connections ended, of those that the client ended for what it got.
        is_filtered: whether it has `clients.FILTER`.
        is_tail: whether it is a process of `tail`, which also connects again.
    """

    name: str
    form: MessageForm
    items: tuple[Message | Gap, ...]
    unreadable: tuple[str, ...] = ()
    is_filtered: bool = False
    is_tail: bool = False


class _Text(msgspec.Struct):
    message_type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Data(msgspec.Struct):
    requested: str
    oldest: str | None
    reason: str


Identify = Callable[[str, tuple[str, ...]], str | None]


def identify(lines: Iterable[Line]) -> Identify:
    """Make what finds the certificate of a message by its id and names."""
    certificates = {(held.id, held.names): held.sha256 for line in lines for held in line.messages}
    return lambda message_id, names: certificates.get((message_id, names))


class _Tail:
    """What a new process of `tail --cursor-file` may repeat of what those before it printed.

    It does so with the same id, before anything new. If Redis lost the batch, the certificate comes
    with another id, at any time, and without a gap: the stored id is before all that.

    Attributes:
        ended: when the last process ended, seconds since the epoch.
    """

    def __init__(self) -> None:
        self.ended = 0.0
        self._cursor = ""
        self._stored = ""  # the same, until the process prints something new
        self._may_repeat: dict[str, dict[str, None]] = {}  # certificate or gap -> ids
        self._printed: list[Item] = []  # also repeats

    def start(self, cursor: str) -> None:
        """Begin a process that has this stored id."""
        self._cursor = self._stored = cursor
        ids = [each.id for each in self._printed]
        in_batch = [each for each in ids if each.startswith(f"{cursor}-")]
        last_id = max(in_batch, key=lambda each: parse_cursor(each).position or 0, default=cursor)
        kept = [at for at, each in enumerate(ids) if each == last_id]
        first, last = (kept[0] + 1, kept[-1] + 1) if kept else (0, 0)
        # What an earlier process printed and no later one repeated, too: it follows the first time
        # that the stored id was printed.
        later = {each.content for each in self._printed[first:]}
        kept_ids = {content: ids for content, ids in self._may_repeat.items() if content in later}
        for each in self._printed[last:]:
            if self.ended - each.at < REPEATS_SECS:
                kept_ids.setdefault(each.content, {})[each.id] = None
        self._may_repeat = kept_ids

    def new(self, item: Item) -> Item | None:
        """Note what a process prints; return it unless it rightly repeats an earlier process."""
        self._printed.append(item)
        may_repeat = any(self._may_repeat.values())
        ids = self._may_repeat.get(item.content, {})
        has_id = item.id in ids
        if ids:
            del ids[item.id if has_id else next(iter(ids))]
            if self._stored or not has_id:
                return None
        if isinstance(item, Gap):
            is_before_repeats = may_repeat and item.requested == self._cursor
            return msgspec.structs.replace(item, is_before_repeats=is_before_repeats)
        stored, self._stored = self._stored, ""
        return msgspec.structs.replace(item, stored=stored) if stored else item


def client_of(
    profile: Profile, noted: Iterable[Noted], truth: GroundTruth, known: Identify
) -> Client:
    """Make a client's items of what it has written down."""
    items: list[Message | Gap] = []
    unreadable: list[str] = []
    tail = _Tail()
    for line in noted:
        if line.kind == "close":
            tail.ended = line.at
            if items and isinstance(gap := items[-1], Gap):
                items[-1] = msgspec.structs.replace(gap, is_last=True)
            if _UNREADABLE.search(line.what) or ended_wrongly(line.what):
                unreadable.append(f"{line.what.decode()} at {line.at:.2f}")
        if line.kind == "open" and profile.protocol == "tail":
            tail.start(line.what.decode().partition(" ")[2])
        item = _item(profile.form, line, truth, known) if line.kind == "text" else None
        if item is not None and (item := tail.new(item)) is not None:
            items.append(item)
    is_tail = profile.protocol == "tail"
    return Client(
        profile.name, profile.form, tuple(items), tuple(unreadable), profile.is_filtered, is_tail
    )


def _item(form: MessageForm, line: Noted, truth: GroundTruth, known: Identify) -> Item | None:
    try:
        text = msgspec.json.decode(line.what, type=_Text)
    except msgspec.DecodeError as error:
        return Message(line.at, "", (), "", (f"{error}: {line.what[:200]!r}",))
    if text.message_type == "heartbeat":
        return None
    if text.message_type == "gap":
        data = msgspec.json.decode(text.data, type=_Data)
        return Gap(line.at, data.requested, data.oldest, data.reason)
    examined = truth.examine(form, line.what)
    sha256 = known(examined.id, examined.names) or ""
    problems = examined.problems
    if form != "domains" and sha256 and examined.sha256 != sha256:
        problems = (*problems, f"is about {examined.sha256}, in Redis about {sha256}")
    return Message(line.at, examined.id, examined.order, sha256, problems, passes(examined.names))


def of_client(
    one: Client, lines: Sequence[Line], may_be_lost_since: float | None, *, quiet: bool = True
) -> list[Trouble]:
    """Judge what one client got.

    Args:
        one: the client.
        lines: of Redis, in the order of time; the last one continues.
        may_be_lost_since: when Redis first lost something, or its clock was ahead; None: never.
        quiet: whether it had the time to get everything; if not, the end of the last line may
            be missing.
    """
    whole = lines
    if one.is_filtered:
        lines = [line.filtered for line in lines]
    found: dict[str, list[str]] = {
        "unreadable": list(one.unreadable),
        "unknown to Redis": [],
        "altered": [],
        "beside the filter": [],
        "repeated without a gap before": _repeated(one.items, whole, may_be_lost_since),
        "out of order": _disordered(one.items),
        "lost although Redis holds them": [],
        "lost without a gap": [],
        "gaps for nothing": _unfounded(one, whole, may_be_lost_since),
    }
    for item in one.items:
        if isinstance(item, Message):
            if not any((item.id, item.sha256) in line.places for line in lines):
                found["unknown to Redis"].append(item.id)
            if one.is_filtered and not item.passes:
                found["beside the filter"].append(item.id)
            found["altered"] += [f"{item.id}: {problem}" for problem in item.problems]
    held, gone = _lost(one, lines, whole, quiet=quiet)
    found["lost although Redis holds them"] = held
    found["lost without a gap"] = gone
    return [Trouble(one.name, kind, tuple(what)) for kind, what in found.items() if what]


def _repeated(
    items: Sequence[Item], lines: Sequence[Line], may_be_lost_since: float | None
) -> list[str]:
    seen: dict[str, int] = {}
    announced = -1
    earlier = -1  # the newest item of a gateway whose Redis was not the last line
    repeated = []
    for index, item in enumerate(items):
        if _is_of_earlier_line(item, lines):
            earlier = index
        if isinstance(item, Gap):
            lost = may_be_lost_since is not None and item.at >= may_be_lost_since
            if item.announces_repeats or lost:
                announced = index
            continue
        before = seen.get(item.sha256) if item.sha256 else None
        if before is not None:
            first = items[before]
            assert isinstance(first, Message)
            if first.id != item.id:
                # If Redis has it twice, `of_redis` judges that.
                excused = announced > before or _has_both(lines, first, item)
            else:
                excused = announced > before and (earlier > before or not _is_new(item, lines))
            if not excused:
                repeated.append(
                    f"{item.id} at {item.at:.2f}, before as {first.id} at {first.at:.2f}"
                )
        seen[item.sha256] = index
    return repeated


def _has_both(lines: Sequence[Line], one: Message, other: Message) -> bool:
    """Whether a line has two messages."""
    keys = {(one.id, one.sha256), (other.id, other.sha256)}
    return any(keys <= line.places.keys() for line in lines)


def _is_new(message: Message, lines: Sequence[Line]) -> bool:
    """Whether the last line has a message that no earlier one has."""
    key = (message.id, message.sha256)
    has = [key in line.places for line in lines]
    return has.count(True) == 1 and has[-1]


def _is_of_earlier_line(item: Item, lines: Sequence[Line]) -> bool:
    """Whether an item shows that the Redis of its gateway had not the last line, but another."""
    if isinstance(item, Message):
        key = (item.id, item.sha256)
        has = [key in line.places for line in lines]
        return any(has) and not has[-1]
    if item.reason == CURSOR_AHEAD_REASON:
        return len(lines) > 1
    entries = [entry_of(each) for each in (item.requested, item.oldest) if each is not None]
    return any(
        any(entry in line.batches for line in lines) and entry not in lines[-1].batches
        for entry in entries
    )


def _disordered(items: Sequence[Message | Gap]) -> list[str]:
    return [
        f"{after.id} after {after.stored or before.id} at {after.at:.2f}"
        for before, after in pairwise(items)
        if isinstance(before, Message)
        and isinstance(after, Message)
        and after.order <= (order_of(after.stored) if after.stored else before.order)
    ]


def _unfounded(one: Client, lines: Sequence[Line], may_be_lost_since: float | None) -> list[str]:
    unfounded = []
    for index, item in enumerate(one.items):
        if not isinstance(item, Gap):
            continue
        if item.announces_repeats and (may_be_lost_since is None or item.at < may_be_lost_since):
            unfounded.append(f"{item}: Redis has lost nothing")
        elif _had_everything(item, lines, one.form):
            unfounded.append(f"{item}: Redis retained what it is after")
        elif why := _why_wrong(one, index):
            unfounded.append(f"{item}: {why}")
    return unfounded


def _had_everything(gap: Gap, lines: Sequence[Line], form: MessageForm) -> bool:
    """Whether each Redis that a gap can come from retained the batch that it is after.

    What is retained at the end of a line was retained in all of it.
    """
    if gap.reason == FORGOTTEN:
        return False
    requested = entry_of(gap.requested)
    # Lines may give one id to two batches.
    if len({line.batches[requested] for line in lines if requested in line.batches}) != 1:
        return False
    oldest = gap.oldest and entry_of(gap.oldest)
    sources = [line for line in lines if oldest is None or oldest in line.batches]
    return bool(sources) and all(f"{requested}-0" in line.retained[form] for line in sources)


def _why_wrong(one: Client, index: int) -> str:
    """Why a gap does not agree with the messages around it; empty if it does."""
    gap = one.items[index]
    assert isinstance(gap, Gap)
    ids = (i.id for i in reversed(one.items[:index]) if isinstance(i, Message))
    before = gap.requested if gap.is_before_repeats else next(ids, None)
    after = next((i for i in one.items[index + 1 :] if isinstance(i, Message)), None)
    # A batch that is gone may have had more messages than the client has, for all that the
    # server knows.
    if (
        not gap.announces_repeats
        and before
        and after is not None
        and parse_cursor(before).entry == after.order[:2]
    ):
        return f"in one batch, between {before} and {after.id}"
    if one.is_tail:
        return ""
    # A gap may move a client on without a message, and one with a filter needs none to move on.
    last = one.items[index - 1] if index else None
    if (
        isinstance(last, Message)
        and not one.is_filtered
        and gap.reason != RESET
        and gap.requested not in (last.id, entry_of(last.id))
    ):
        return f"the last message is {last.id}"
    following = one.items[index + 1] if index + 1 < len(one.items) else None
    if (
        isinstance(following, Message)
        and not gap.is_last
        and gap.oldest is not None
        and following.order[:2] < parse_cursor(gap.oldest).entry
    ):
        return f"{following.id} follows"
    return ""


def _lost(
    one: Client, lines: Sequence[Line], whole: Sequence[Line], *, quiet: bool
) -> tuple[list[str], list[str]]:
    """What the client lacks: first what Redis still holds, then what no gap was sent for.

    Args:
        one: the client.
        lines: what passes its filter.
        whole: the lines without the filter.
        quiet: whether the end of the last line must be there.
    """
    messages = [item for item in one.items if isinstance(item, Message)]
    if not messages:
        return ["everything"], []
    received = {message.sha256 for message in messages}
    owed: dict[str, tuple[int, int]] = {}  # certificate -> newest line and place that have it
    for number, line in enumerate(lines):
        begin = line.places.get((messages[0].id, messages[0].sha256), 0)
        for place, held in enumerate(line.messages[begin:], begin):
            if held.sha256 not in received:
                owed[held.sha256] = number, place
    held_still: list[str] = []
    unreported: list[str] = []
    by_line: dict[int, list[int]] = {}
    for number, place in owed.values():
        by_line.setdefault(number, []).append(place)
    newest = max((number for number, line in enumerate(lines) if line.messages), default=0)
    for number, places in by_line.items():
        if number == newest < len(lines) - 1:
            continue  # nothing followed what Redis lost, so there is no place for a gap
        line = lines[number]
        retained = line.retained[one.form] if number == len(lines) - 1 else frozenset()
        gone = []
        if number == len(lines) - 1 and not quiet:
            furthest = max(line.places.get((m.id, m.sha256), -1) for m in messages)
        else:
            furthest = len(line.messages)
        for place in sorted(place for place in places if place < furthest):
            held = line.messages[place]
            if held.id in retained:
                held_still.append(_named(held, line))
            else:
                gone.append(place)
        reported = _reported(one.items, lines, whole, number, gone)
        unreported += [_named(line.messages[p], line) for p in gone if p not in reported]
    return held_still, unreported


def _reported(
    items: Sequence[Item],
    lines: Sequence[Line],
    whole: Sequence[Line],
    number: int,
    missing: Sequence[int],
) -> set[int]:
    """Which of the missing places of a line a gap covers."""
    first = whole[number].messages[:1]
    later = [
        line
        for line, unfiltered in zip(lines[number + 1 :], whole[number + 1 :], strict=True)
        if unfiltered.messages[:1] != first
    ]
    at = [_place(item, lines[number], later) for item in items]
    last = _EARLIER
    for index, got in enumerate(at):  # what an earlier line alone has is where the client left both
        if got == _EARLIER:
            at[index] = last
        elif got is not None and got != _LATER:
            last = got
    ranges = {
        index: _range(item, whole, number)
        for index, item in enumerate(items)
        if isinstance(item, Gap)
    }
    reported = set()
    before, index = -2, -1
    for place in missing:
        if place != before + 1:  # else nothing that was received is between them
            newest, index = _EARLIER, -1
            for got_at, got in enumerate(at):
                if got is not None and (newest < got < place or newest == got == _EARLIER):
                    newest, index = got, got_at
        before = place
        message_id = lines[number].messages[place].id
        where = (whole[number].numbers[entry_of(message_id)], int(message_id.rpartition("-")[2]))
        for after in range(index + 1, len(at)):
            if (got := at[after]) is not None and got > place:
                break
            if got is None and ranges[after][0] < where < ranges[after][1]:
                reported.add(place)
                break
    return reported


def _range(
    gap: Gap, lines: Sequence[Line], number: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What of a line a gap can report: the messages between two, each as (batch, position).

    A gap for another reason than trimming may be after an id, or before one, of another line: only
    its end counts, and only in the last line.
    """
    begin, end = (-math.inf, 0.0), (math.inf, 0.0)
    if gap.reason == FORGOTTEN:
        return begin, begin
    numbers = lines[number].numbers
    if not gap.announces_repeats and (batch := numbers.get(entry_of(gap.requested))) is not None:
        position = parse_cursor(gap.requested).position
        begin = (batch, math.inf if position is None else position)
    if (
        gap.oldest is not None
        and (not gap.announces_repeats or number == len(lines) - 1)
        and (batch := numbers.get(entry_of(gap.oldest))) is not None
    ):
        end = (batch, -1)
    return begin, end


def _place(item: Message | Gap, line: Line, later: Sequence[Line]) -> int | None:
    """The place of a message in a line, or as if it were before or behind all of them.

    A line that continues this one is not later in this sense: there, what is missing was to be
    read again, until Redis was emptied.
    """
    if isinstance(item, Gap):
        return None
    key = (item.id, item.sha256)
    if (place := line.places.get(key)) is not None:
        return place
    return _LATER if any(key in each.places for each in later) else _EARLIER


def _named(held: Held, line: Line) -> str:
    return f"{held.id} of line {line.name} ({held.sha256[:16]})"


def of_redis(
    lines: Sequence[Line],
    truth: GroundTruth,
    published_with: Mapping[str, str],
    *,
    marks_may_expire: bool,
    is_read_again: bool = False,
) -> list[Trouble]:
    """Judge what was published.

    Args:
        lines: of Redis.
        truth: what the logs hold.
        published_with: entry id -> fence of the request that published it.
        marks_may_expire: whether the clock of Redis jumped by as much as they last, and stayed.
        is_read_again: whether the last line must have all of it.
    """
    having = lines[-1:] if is_read_again else lines
    published = {held.sha256 for line in having for held in line.messages}
    skips = {skip for line in lines for skip in line.skips}
    missing = [
        f"{log} {index} ({entry.sha256[:16]})"
        for (log, index), entry in truth.by_place.items()
        if not entry.malformed
        and entry.sha256 not in published
        and not any(skip.log == log and skip.first <= index < skip.end for skip in skips)
    ]
    troubles = [Trouble("redis", "never published", tuple(missing))] if missing else []
    fenced = [
        f"{entry} with the fence {fence}"
        for entry, fence in published_with.items()
        if (owners := {line.fences[entry] for line in lines if entry in line.fences})
        and fence not in owners
    ]
    if fenced:
        troubles.append(Trouble("redis", "published without the lease", tuple(fenced)))
    for line in lines:
        if line.troubles:
            troubles.append(Trouble(f"line {line.name}", "wrong in Redis", line.troubles))
        seen: dict[str, str] = {}
        twice = []
        for held in line.messages:
            if held.sha256 in seen and not _may_expire(line, seen[held.sha256], held.id):
                twice.append(f"{held.id}, before as {seen[held.sha256]}")
            seen[held.sha256] = held.id
        if twice and not marks_may_expire:
            troubles.append(Trouble(f"line {line.name}", "published twice", tuple(twice)))
    return troubles


def _may_expire(line: Line, first: str, second: str) -> bool:
    """Whether the mark of a message expired that was made while the clock of Redis was behind.

    Ids do not go back: they are ahead of TIME then, by as much as the clock is behind.
    """
    least = EXPIRY_SECS * 1000
    entry, later = entry_of(first), entry_of(second)
    ms = int(later.partition("-")[0])
    made = line.times.get(entry)
    return (
        made is not None
        and int(entry.partition("-")[0]) - made > least - STEADY_SECS * 1000
        and line.times.get(later, ms) - made >= least
    )


def of_logs(
    tallies: Iterable[Tally],
    sizes: Mapping[str, int],
    unpublishable: Mapping[str, int],
    *,
    skips: bool,
) -> list[Trouble]:
    """Judge the accounts, when everything is quiet.

    Args:
        tallies: the accounts.
        sizes: how many entries each log has.
        unpublishable: how many of them are no certificate, or were shown as a forged one.
        skips: whether logs may skip entries.
    """
    wrong = []
    sizes = dict(sizes)
    for tally in tallies:
        done = tally.accounted
        size = sizes.pop(tally.log, 0)
        if done != tally.next - tally.start or tally.next != size:
            wrong.append(f"{tally} of a log with {size} entries")
        if tally.rejected > unpublishable.get(tally.log, 0):
            most = unpublishable.get(tally.log, 0)
            wrong.append(f"{tally}: only {most} entries are unreadable or forged")
        if tally.skipped and not skips:
            wrong.append(f"{tally}: no log is far behind")
    wrong += [f"{log}: no account of {size} entries" for log, size in sizes.items()]
    return [Trouble("logs", "wrong accounts", tuple(wrong))] if wrong else []


def of_operators(
    operators: Mapping[str, Counts], interval: float, late_secs: float
) -> list[Trouble]:
    """Judge how many requests each operator got.

    Args:
        operators: the requests to each, since simlog started last.
        interval: seconds between two requests.
        late_secs: by which requests may have been counted after they were due.
    """
    most = 1 + (RATE_SPAN_SECS + late_secs) / interval
    found = {name: counted.most(RATE_SPAN_SECS) for name, counted in operators.items()}
    above = tuple(
        f"{name}: {number} in {RATE_SPAN_SECS:g} s, {most:.0f} are permitted"
        for name, number in found.items()
        if number > most
    )
    return [Trouble("operators", "too many requests", above)] if above else []


def of_memory(peaks: Mapping[str, float]) -> list[Trouble]:
    """Judge the memory of processes.

    Args:
        peaks: the most MiB that each took, by its name.
    """
    above = tuple(f"{name}: {mib:.0f} MiB" for name, mib in peaks.items() if mib > MAX_MIB)
    return [Trouble("processes", "too much memory", above)] if above else []
