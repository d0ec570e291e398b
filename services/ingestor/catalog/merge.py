"""Listed and configured logs -> the one set of logs to follow."""

import base64
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from certconf.settings import CustomLog, StaticLog
from ingestor.catalog.log import Kind, Log, identify, normalise
from ingestor.catalog.log_list import is_followed

_log = structlog.get_logger(__name__)


def merge(
    listed: Iterable[Log],
    configured: Sequence[CustomLog | StaticLog],
    kinds: frozenset[Kind],
    now: float | None = None,
) -> dict[str, Log]:
    """Join what is listed with what is configured.

    Of a log on several lists the first one counts. A log that is configured and listed is one
    log, with the listed identity and the configured settings; configured, it is followed whatever
    state the list gives it. A configured log that contradicts itself is left out, with an error in
    the log: the others are worth following all the same.

    Args:
        listed: logs of all lists, in the order of the lists.
        configured: logs configured by hand.
        kinds: which APIs are enabled.
        now: seconds since the epoch; None asks the clock.

    Returns:
        Logs by id, the configured ones first.
    """
    now = time.time() if now is None else now
    known: dict[str, Log] = {}
    for log in listed:
        known.setdefault(log.id, log)
    ids = {normalise(log.url): log.id for log in known.values()}
    logs: dict[str, Log] = {}
    for setting in configured:
        try:
            log = _configured(setting, ids)
        except ValueError as error:
            _log.error("configured log left out", log=setting.name, problem=str(error))
            continue
        if log.id in logs:
            _log.warning("log configured twice", log=log.name, same_as=logs[log.id].name)
            continue
        logs[log.id] = _joined(log, known[log.id]) if log.id in known else log
    for log in known.values():
        if is_followed(log, now):
            logs.setdefault(log.id, log)
    return {log.id: log for log in logs.values() if log.kind in kinds}


def _configured(setting: CustomLog | StaticLog, ids: dict[str, str]) -> Log:
    key = base64.b64decode(setting.key) if setting.key else None
    if isinstance(setting, StaticLog):
        kind = Kind.STATIC_CT
        origin = setting.log_origin
    else:
        kind = Kind.RFC6962
        origin = None
    return Log(
        id=identify(key, setting.expected_log_id, setting.url, ids),
        name=setting.name,
        url=setting.url if "://" in setting.url else f"https://{setting.url}",
        kind=kind,
        operator=setting.operator or "",
        key=key,
        origin=origin,
        integrity=setting.integrity,
        batch_size=setting.batch_size,
        poll_interval_ms=setting.poll_interval_ms,
    )


def _joined(configured: Log, listed: Log) -> Log:
    """A configured log with what its list knows better."""
    return msgspec.structs.replace(
        configured,
        operator=configured.operator or listed.operator,
        state=listed.state,
        key=configured.key or listed.key,
        origin=configured.origin or listed.origin,
        end_exclusive=listed.end_exclusive,
        mmd=listed.mmd,
    )


def keep_ids(before: Mapping[str, Log], logs: Mapping[str, Log]) -> dict[str, Log]:
    """Let no log change its id while it may be followed under the one it had.

    A configured log gets a better id when a list is read that knows its key. Following it as
    another log would publish everything in between once more.

    Args:
        before: the logs as they were, by id.
        logs: the logs as they are now, by id.
    """
    ids = {normalise(log.url): log.id for log in before.values()}
    kept = [
        msgspec.structs.replace(log, id=ids.get(normalise(log.url), log.id))
        for log in logs.values()
    ]
    return {log.id: log for log in kept}
