"""Which logs are over, and which are so no longer. Pure.

A log is over for a list that wanted it followed and is newer now, if it is signed, and

    names the log as retired or rejected, or
    does not name it any more, and all its entries could be read;

and for any list when the log's temporal interval has ended. No list says so twice of a log, and
none while another list, or the operator, wants it followed. What an ingestor's own configuration
lacks is not over: others may have it.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from certbus.logs.registry import ListedEntry, LogState, Retirement
from ingestor.log import Drain, Log
from ingestor.loglists.parser import ENDED_STATES, MARGIN, LogList, has_ended, is_followed

_NEVER = LogState(is_known=False, retirement=None, is_dropped=False)


class ListedLog(msgspec.Struct, frozen=True):
    """One list, and what Redis knows of what it said before.

    Attributes:
        id: of the list, in Redis.
        name: for people.
        is_signed: whether it may retire logs.
        says: what it says now.
        said: by log id, what it said of logs that it wanted followed.
    """

    id: str
    name: str
    is_signed: bool
    says: LogList
    said: Mapping[str, ListedEntry]


class RetirementPlan(msgspec.Struct, frozen=True):
    """What to write down in Redis, and what to follow.

    Attributes:
        logs: to follow, those to be drained among them, by id.
        names: list id -> by log id, what it says of logs that it wants followed.
        retire: list id, log id and retirement of the logs that are over now.
        revive: ids of logs that some list had given up, and that are wanted again.
    """

    logs: dict[str, Log]
    names: dict[str, dict[str, ListedEntry]]
    retire: list[tuple[str, str, Retirement]]
    unretire: list[str]


def plan_retirements(
    wanted: Mapping[str, Log],
    standings: Mapping[str, LogState],
    lists: Sequence[ListedLog],
    now: float,
) -> RetirementPlan:
    """Decide what is over.

    Args:
        wanted: logs that lists and configuration want followed, by id.
        standings: how each log stands in Redis.
        lists: the lists.
        now: seconds since the epoch.
    """
    over = {
        log_id: standing.retirement
        for log_id, standing in standings.items()
        if standing.retirement is not None
    }
    # An operator's word stands against every list; a list's against none that wants the log.
    revive = [log_id for log_id in wanted if log_id in over and over[log_id].by == "list"]
    retire = [
        (each.id, log_id, retirement)
        for each in lists
        for log_id, retirement in _retired(each, now)
        if log_id not in wanted and log_id not in over
    ]
    ended = {log_id: over[log_id] for log_id in over.keys() - revive}
    ended |= {log_id: retirement for _, log_id, retirement in retire}
    logs = {log_id: log for log_id, log in wanted.items() if log_id not in ended}
    for log_id, retirement in ended.items():
        log = wanted.get(log_id) or _read(retirement.log)
        if log is not None and not standings.get(log_id, _NEVER).is_dropped:
            logs[log_id] = drain_deadline(log, retirement)
    return RetirementPlan(
        logs=logs,
        names={each.id: _new_names(each, wanted, standings, now) for each in lists},
        retire=retire,
        unretire=revive,
    )


def drain_deadline(log: Log, retirement: Retirement) -> Log:
    """A log that is over.

    What it has promised to include, it does within its maximum merge delay.
    """
    due = max(retirement.since, 0.0) + log.mmd
    given_up = max(due, retirement.at) + MARGIN
    return msgspec.structs.replace(log, drain=Drain(due, given_up))


def _new_names(
    each: ListedLog, wanted: Mapping[str, Log], standings: Mapping[str, LogState], now: float
) -> dict[str, ListedEntry]:
    """What the list says of logs that are followed, where it did not say so before."""
    rank, said = each.says.rank, each.said
    return {
        log.id: ListedEntry(rank, msgspec.Raw(msgspec.json.encode(log)))
        for log in each.says.logs
        if is_followed(log, now)
        and log.id in wanted
        and standings.get(log.id, _NEVER).is_known
        and (log.id not in said or said[log.id].rank < rank)
    }


def _retired(each: ListedLog, now: float) -> Iterable[tuple[str, Retirement]]:
    """Logs that the list wanted followed, and now says are over."""
    says = each.says
    entries = {log.id: log for log in says.logs}
    for log_id, before in each.said.items():
        log = entries.get(log_id)
        is_newer = each.is_signed and before.rank < says.rank
        if log is not None and has_ended(log, now):
            why, since = "its temporal interval has ended", log.end_exclusive or now
        elif is_newer and log is not None and log.state in ENDED_STATES:
            why, since = f"{log.state} in version {says.version} of {each.name}", log.since or now
        elif is_newer and log is None and not says.unreadable:
            why, since = f"not in version {says.version} of {each.name} any more", now
        else:
            continue
        yield log_id, Retirement("list", why, min(since, now), now, before.log)


def _read(log: msgspec.Raw) -> Log | None:
    try:
        return msgspec.json.decode(log, type=Log | None)
    except msgspec.DecodeError:
        return None
