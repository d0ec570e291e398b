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
  If nothing was published after Redis lost its line, there is no place for the gap.
* Between two gaps, ids ascend.
* What clients get was in Redis, and agrees with its certificate; with a filter, all of it passes,
  and only what passes is owed.
* No connection ends because a client could not read what it got.
* Only the owner of a log's lease publishes, and the frontier of a log ends at its position.
* No line has a certificate twice, unless the clock of Redis jumped by as much as marks last.
* No gap is sent for nothing.
* `tail --cursor-file` may repeat what it printed in its last moments before it was killed.

And of each log, after each command that Redis executed: published + duplicates + rejected +
skipped = next - start. Only what a log holds that is no certificate, or shows in place of a
precertificate, is rejected, and only a log that was far behind skips.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from certbus.ids import parse_cursor
from certbus.streams.events import NOT_RETAINED_REASON
from simlog.oracle.check_message import GroundTruth, MessageForm
from simlog.oracle.oracle import Tally
from tests.adversity.clients import Line as Noted
from tests.adversity.clients import Profile, passes
from tests.adversity.lines import Held, Line
from tests.adversity.tail import REPEATS_SECS

SHOWN: Final = 4
"""How many examples of one kind of trouble are printed."""


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


class Gap(msgspec.Struct, frozen=True, gc=False):
    """A gap message that a client got.

    Attributes:
        at: seconds since the epoch.
        requested: as in the message.
        oldest: as in the message.
        reason: as in the message.
        is_before_repeats: whether it follows an id that `tail` had stored before it printed more.
    """

    at: float
    requested: str
    oldest: str | None
    reason: str
    is_before_repeats: bool = False

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
    """

    name: str
    form: MessageForm
    items: tuple[Message | Gap, ...]
    unreadable: tuple[str, ...] = ()
    is_filtered: bool = False


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
        self._may_repeat: dict[str, str] = {}  # certificate -> id
        self._printed: list[Message] = []  # also repeats

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
        later = {each.sha256 for each in self._printed[first:]}
        self._may_repeat = {
            **{sha256: each for sha256, each in self._may_repeat.items() if sha256 in later},
            **{
                each.sha256: each.id
                for each in self._printed[last:]
                if self.ended - each.at < REPEATS_SECS
            },
        }

    def new(self, message: Message) -> Message | None:
        """Note what a process prints; return it unless it rightly repeats an earlier process."""
        self._printed.append(message)
        before = self._may_repeat.pop(message.sha256, None)
        if before is not None and (self._stored or before != message.id):
            return None
        stored, self._stored = self._stored, ""
        return msgspec.structs.replace(message, stored=stored) if stored else message

    def repeats_after(self, gap: Gap) -> bool:
        """Whether repeats may follow a gap after the stored id."""
        return gap.requested == self._cursor and bool(self._may_repeat)


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
            if _UNREADABLE.search(line.what):
                unreadable.append(f"{line.what.decode()} at {line.at:.2f}")
        if line.kind == "open" and profile.protocol == "tail":
            tail.start(line.what.decode().partition(" ")[2])
        item = _item(profile.form, line, truth, known) if line.kind == "text" else None
        if isinstance(item, Message):
            item = tail.new(item)
        if isinstance(item, Gap) and tail.repeats_after(item):
            item = msgspec.structs.replace(item, is_before_repeats=True)
        if item is not None:
            items.append(item)
    return Client(profile.name, profile.form, tuple(items), tuple(unreadable), profile.is_filtered)


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
    if one.is_filtered:
        lines = [line.filtered for line in lines]
    found: dict[str, list[str]] = {
        "unreadable": list(one.unreadable),
        "unknown to Redis": [],
        "altered": [],
        "beside the filter": [],
        "repeated without a gap before": _repeated(one.items, may_be_lost_since),
        "out of order": _disordered(one.items),
        "lost although Redis holds them": [],
        "lost without a gap": [],
        "gaps for nothing": _unfounded(one.items, may_be_lost_since),
    }
    for item in one.items:
        if isinstance(item, Message):
            if not any((item.id, item.sha256) in line.places for line in lines):
                found["unknown to Redis"].append(item.id)
            if one.is_filtered and not item.passes:
                found["beside the filter"].append(item.id)
            found["altered"] += [f"{item.id}: {problem}" for problem in item.problems]
    held, gone = _lost(one, lines, quiet=quiet)
    found["lost although Redis holds them"] = held
    found["lost without a gap"] = gone
    return [Trouble(one.name, kind, tuple(what)) for kind, what in found.items() if what]


def _repeated(items: Sequence[Message | Gap], may_be_lost_since: float | None) -> list[str]:
    seen: dict[str, int] = {}
    announced = -1
    repeated = []
    for index, item in enumerate(items):
        if isinstance(item, Gap):
            lost = may_be_lost_since is not None and item.at >= may_be_lost_since
            if item.announces_repeats or lost:
                announced = index
            continue
        before = seen.get(item.sha256) if item.sha256 else None
        if before is not None and announced < before:
            first = items[before]
            assert isinstance(first, Message)
            repeated.append(f"{item.id} at {item.at:.2f}, before as {first.id} at {first.at:.2f}")
        seen[item.sha256] = index
    return repeated


def _disordered(items: Sequence[Message | Gap]) -> list[str]:
    return [
        f"{after.id} after {after.stored or before.id} at {after.at:.2f}"
        for before, after in pairwise(items)
        if isinstance(before, Message)
        and isinstance(after, Message)
        and after.order <= (_order(after.stored) if after.stored else before.order)
    ]


def _order(stored: str) -> tuple[int, ...]:
    return tuple(map(int, stored.split("-")))


def _unfounded(items: Sequence[Message | Gap], may_be_lost_since: float | None) -> list[str]:
    unfounded = []
    for index, item in enumerate(items):
        if not isinstance(item, Gap):
            continue
        if item.announces_repeats:
            if may_be_lost_since is None or item.at < may_be_lost_since:
                unfounded.append(f"{item}: Redis has lost nothing")
            continue
        ids = (i.id for i in reversed(items[:index]) if isinstance(i, Message))
        before = item.requested if item.is_before_repeats else next(ids, None)
        after = next((i for i in items[index + 1 :] if isinstance(i, Message)), None)
        # A batch that is gone may have had more messages than the client has, for all that the
        # server knows.
        if before and after is not None and parse_cursor(before).entry == after.order[:2]:
            unfounded.append(f"{item}: in one batch, between {before} and {after.id}")
    return unfounded


def _lost(one: Client, lines: Sequence[Line], *, quiet: bool) -> tuple[list[str], list[str]]:
    """What the client lacks: first what Redis still holds, then what no gap was sent for."""
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
        reported = _reported(one.items, lines, number, gone)
        unreported += [_named(line.messages[p], line) for p in gone if p not in reported]
    return held_still, unreported


def _reported(
    items: Sequence[Message | Gap], lines: Sequence[Line], number: int, missing: Sequence[int]
) -> set[int]:
    """Which of the missing places of a line a gap covers."""
    at = [_place(item, lines, number) for item in items]
    reported = set()
    before, follows = -2, False
    for place in missing:
        if place != before + 1:  # else nothing that was received is between them
            newest, index = _EARLIER, -1
            for got_at, got in enumerate(at):
                if got is not None and (newest < got < place or newest == got == _EARLIER):
                    newest, index = got, got_at
            follows = _gap_follows(at, index, place)
        before = place
        if follows:
            reported.add(place)
    return reported


def _place(item: Message | Gap, lines: Sequence[Line], number: int) -> int | None:
    """The place of a message in a line, or as if it were before or behind all of them."""
    if isinstance(item, Gap):
        return None
    key = (item.id, item.sha256)
    if (place := lines[number].places.get(key)) is not None:
        return place
    return _LATER if any(key in line.places for line in lines[number + 1 :]) else _EARLIER


def _gap_follows(at: Sequence[int | None], index: int, place: int) -> bool:
    """Whether a gap comes after an item, before anything from behind the place."""
    for got in at[index + 1 :]:
        if got is None:
            return True
        if got > place:
            return False
    return False


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
        marks_may_expire: whether the clock of Redis jumped by as much as they last.
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
            if held.sha256 in seen:
                twice.append(f"{held.id}, before as {seen[held.sha256]}")
            seen[held.sha256] = held.id
        if twice and not marks_may_expire:
            troubles.append(Trouble(f"line {line.name}", "published twice", tuple(twice)))
    return troubles


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
