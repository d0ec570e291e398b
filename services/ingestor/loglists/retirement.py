"""Which logs are retired, and which are reinstated. No I/O.

A list retires a log that it wanted followed, if it is newer now and signed, and

    gives the log the state retired or rejected, or
    does not have it any more, and all entries of the list could be read;

and any list does when the log's temporal interval has ended. A list retires a log once, and not
while another list, or the configuration, wants it followed. A log that is missing from one
ingestor's configuration is not retired: other ingestors may have it.

All times are those of Redis. Stored times may be wrong: `AssignedLog.is_drained` bounds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from certbus.logs.registry import ListedEntry, LogState, Retirement
from ingestor.log import READ_MARGIN_SECS, Drain, Log
from ingestor.loglists.parser import ENDED_STATES, LogList, has_ended, is_followed

_UNKNOWN = LogState(is_known=False, retirement=None, is_dropped=False)
# Of a log that an earlier release stored without them. Unlike a configured log, it may not lead to
# addresses inside, and unlike a log of a signed list, it shares no slots with its operator.
_UNKNOWN_ORIGIN = {"listed_at": "", "unsigned_list": "unknown"}


class ListedLog(msgspec.Struct, frozen=True):
    """One list, now and before.

    Attributes:
        id: of the list, in Redis.
        name: for log lines.
        is_signed: whether it may retire logs.
        content: the list now.
        before: by log id, what the list stated before about logs that it wanted followed.
    """

    id: str
    name: str
    is_signed: bool
    content: LogList
    before: Mapping[str, ListedEntry]


class RetirementPlan(msgspec.Struct, frozen=True):
    """What to write to Redis, and what to follow.

    Attributes:
        logs: to follow or drain, by id.
        listed: list id -> by log id, what it states about logs that it wants followed.
        retire: list id, log id and retirement of the logs to retire.
        unretire: ids of logs that lists had retired, and that are wanted again.
    """

    logs: dict[str, Log]
    listed: dict[str, dict[str, ListedEntry]]
    retire: list[tuple[str, str, Retirement]]
    unretire: list[str]


def plan_retirements(
    wanted: Mapping[str, Log],
    states: Mapping[str, LogState],
    lists: Sequence[ListedLog],
    now: float,
    *,
    keep: bool = False,
) -> RetirementPlan:
    """Return which logs to retire, to reinstate and to follow.

    Args:
        wanted: logs that lists and configuration want followed, by id.
        states: state of each log in Redis.
        lists: the lists.
        now: time of Redis, seconds since the epoch.
        keep: follow logs that lists no longer want followed, instead of retiring them
            (`ct_log.removed_log_policy`).
    """
    retired = {
        log_id: state.retirement for log_id, state in states.items() if state.retirement is not None
    }
    # An operator's retirement outranks every list; a list's is undone by any list that wants the
    # log.
    unretire = [log_id for log_id in wanted if log_id in retired and retired[log_id].by == "list"]
    retire = [
        (each.id, log_id, retirement)
        for each in lists
        for log_id, retirement in _newly_retired(each, now)
        if log_id not in wanted and log_id not in retired and not keep
    ]
    kept = {
        log_id: _decode(entry.log)
        for each in lists
        for log_id, entry in each.before.items()
        if log_id not in wanted and log_id not in retired and keep
    }
    ended = {log_id: retired[log_id] for log_id in retired.keys() - unretire}
    ended |= {log_id: retirement for _, log_id, retirement in retire}
    logs = {log_id: log for log_id, log in wanted.items() if log_id not in ended}
    logs |= {log_id: log for log_id, log in kept.items() if log is not None}
    for log_id, retirement in ended.items():
        log = wanted.get(log_id) or _decode(retirement.log)
        if log is not None and not states.get(log_id, _UNKNOWN).is_dropped:
            logs[log_id] = drain_deadline(log, retirement)
    return RetirementPlan(
        logs=logs,
        listed={each.id: _newly_listed(each, wanted, states, now) for each in lists},
        retire=retire,
        unretire=unretire,
    )


def drain_deadline(log: Log, retirement: Retirement) -> Log:
    """Return a retired log with the times of its drain.

    A log includes what it has accepted within its maximum merge delay (RFC 6962, section 3).
    """
    due = max(retirement.since, 0.0) + log.mmd
    deadline = max(due, retirement.at) + READ_MARGIN_SECS
    return msgspec.structs.replace(log, drain=Drain(due, deadline))


def _newly_listed(
    each: ListedLog, wanted: Mapping[str, Log], states: Mapping[str, LogState], now: float
) -> dict[str, ListedEntry]:
    """Return what a list states about logs that are followed, as far as Redis lacks it."""
    rank, before = each.content.rank, each.before
    followed = {log.id: log for log in each.content.logs if is_followed(log, now)}
    return {
        log_id: ListedEntry(rank, msgspec.Raw(msgspec.json.encode(log)))
        for log_id, log in followed.items()
        if log_id in wanted
        and states.get(log_id, _UNKNOWN).is_known
        and _is_news(log, rank, before.get(log_id))
    }


def _is_news(log: Log, rank: str, before: ListedEntry | None) -> bool:
    """Whether Redis lacks what a list states, or has it as another release stores it."""
    if before is None or before.rank < rank:
        return True
    return before.rank == rank and bytes(before.log) != msgspec.json.encode(log)


def _newly_retired(each: ListedLog, now: float) -> Iterable[tuple[str, Retirement]]:
    """Yield the logs that a list wanted followed, and retires now."""
    content = each.content
    entries = {log.id: log for log in content.logs}
    for log_id, before in each.before.items():
        log = entries.get(log_id)
        is_newer = each.is_signed and before.rank < content.rank
        version = f"version {content.version} of {each.name}"
        if log is not None and has_ended(log, now):
            why, since = "its temporal interval has ended", log.end_exclusive or now
        elif is_newer and log is not None and log.state in ENDED_STATES:
            why, since = f"{log.state} in {version}", log.since or now
        elif is_newer and log is None and not content.unreadable:
            why, since = f"not in {version} any more", now
        else:
            continue
        yield log_id, Retirement("list", why, min(since, now), now, before.log)


def _decode(stored: msgspec.Raw) -> Log | None:
    try:
        fields = msgspec.json.decode(stored, type=dict[str, Any] | None)
        return None if fields is None else msgspec.convert(_UNKNOWN_ORIGIN | fields, Log)
    except msgspec.DecodeError:  # or its subclass ValidationError
        return None
