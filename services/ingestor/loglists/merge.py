"""Merges listed and configured logs into the set of logs to follow. No I/O.

Which source decides what:

    signed list      everything; of several lists, the first one
    unsigned list    everything about logs that no signed list has, by key or URL; nothing else
    configuration    that a log is followed, whatever its state in a list, and how
"""

import base64
from collections.abc import Mapping, Sequence

import msgspec

from certconf.settings import CustomLog, StaticLog
from ingestor.log import Kind, Log, normalise, resolve_log_id
from ingestor.loglists.parser import is_followed


class Merged(msgspec.Struct, frozen=True):
    """The logs to follow.

    Attributes:
        logs: by id, the configured ones first.
        problems: name of each configured log that was rejected -> why.
    """

    logs: Mapping[str, Log]
    problems: Mapping[str, str] = {}


def merge(
    signed: Sequence[Log],
    unsigned: Sequence[Log],
    configured: Sequence[CustomLog | StaticLog],
    now: float,
) -> Merged:
    """Merge listed and configured logs.

    A log that is configured and listed is one log, with the listed identity and the configured
    settings. A configured log that contradicts itself, or a signed list, is rejected alone.

    Args:
        signed: logs of all signed lists, in the order of the lists, in any state.
        unsigned: logs of all unsigned lists, in the order of the lists, in any state.
        configured: configured logs.
        now: seconds since the epoch.
    """
    known = {log.id: log for log in reversed(signed)}
    urls = _by_url(known, now)
    added = {log.id: log for log in reversed(unsigned) if normalise(log.url) not in urls}
    listed = {**known, **{key: log for key, log in added.items() if key not in known}}
    ids = _by_url(listed, now)
    logs: dict[str, Log] = {}
    problems: dict[str, str] = {}
    for setting in configured:
        try:
            log = _configured(setting, ids)
            _check(log, logs, known.get(urls.get(normalise(log.url), "")), now)
        except ValueError as error:
            problems[setting.name] = str(error)
        else:
            logs[log.id] = _joined(log, listed[log.id]) if log.id in listed else log
    taken = {normalise(log.url) for log in logs.values()}
    for log in listed.values():
        url = normalise(log.url)
        is_another = log.id not in known and (url in taken or ids[url] != log.id)
        if is_followed(log, now) and not is_another:
            logs.setdefault(log.id, log)
    return Merged(logs, problems)


def _by_url(logs: Mapping[str, Log], now: float) -> dict[str, str]:
    """Return normalised URL -> log id; of several logs at one URL, one that is followed."""
    last = sorted(logs.values(), key=lambda log: is_followed(log, now))
    return {normalise(log.url): log.id for log in last}


def _configured(setting: CustomLog | StaticLog, ids: Mapping[str, str]) -> Log:
    key = base64.b64decode(setting.key) if setting.key else None
    if isinstance(setting, StaticLog):
        kind = Kind.STATIC_CT
        origin = setting.log_origin
        is_hybrid = setting.tree_size_source == "get_sth"
    else:
        kind = Kind.RFC6962
        origin = None
        is_hybrid = False
    return Log(
        id=resolve_log_id(key, setting.expected_log_id, setting.url, ids),
        name=setting.name,
        url=setting.url if "://" in setting.url else f"https://{setting.url}",
        kind=kind,
        operator=setting.operator or "",
        key=key,
        origin=origin,
        is_hybrid=is_hybrid,
        integrity=setting.integrity,
        batch_size=setting.batch_size,
        poll_interval_ms=setting.poll_interval_ms,
    )


def _check(log: Log, others: Mapping[str, Log], at_url: Log | None, now: float) -> None:
    """Check a configured log.

    Raises:
        ValueError: it is configured twice, or a signed list has another log at its URL.
    """
    if log.id in others:
        raise ValueError(f"it is the same log as {others[log.id].name!r}")
    if at_url is not None and at_url.id != log.id and is_followed(at_url, now):
        raise ValueError(
            f"its log id would be {log.id}, but a signed list has {at_url.id} at {log.url}"
        )


def _joined(configured: Log, listed: Log) -> Log:
    """Return a configured log with the identity that its list states."""
    return msgspec.structs.replace(
        configured,
        operator=configured.operator or listed.operator,
        unsigned_list="" if configured.operator else listed.unsigned_list,
        state=listed.state,
        since=listed.since,
        key=configured.key or listed.key,
        origin=configured.origin or listed.origin,
        end_exclusive=listed.end_exclusive,
        mmd=listed.mmd,
    )
