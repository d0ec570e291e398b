"""UTCTime and GeneralizedTime -> Unix seconds (RFC 5280 section 4.1.2.5).

RFC 5280 allows one form of each, with seconds and "Z". X.690 and old certificates know more:
seconds left out, fractions, offsets from UTC; these are read as well. A time with neither "Z" nor
an offset is local time of an unknown zone, so it names no moment and is an error.
"""

import datetime as dt
import re

from ctparse import der

_UTC_TIME = re.compile(
    rb"(?P<year>\d\d)(?P<month>\d\d)(?P<day>\d\d)(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)?"
    rb"(?:Z|(?P<offset>[+-]\d{4}))"
)
_GENERALIZED_TIME = re.compile(
    rb"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?P<hour>\d\d)(?:(?P<minute>\d\d)(?P<second>\d\d)?)?"
    rb"(?:[.,]\d+)?(?:Z|(?P<offset>[+-]\d{4}))"
)
_FORMS = {der.UTC_TIME: _UTC_TIME, der.GENERALIZED_TIME: _GENERALIZED_TIME}


def read_time(tag: int, contents: bytes) -> int:
    """Read a Time: seconds since the epoch, negative before 1970.

    Raises:
        der.DerError: it is neither a UTCTime nor a GeneralizedTime, or names no moment
            (month 13, 30 February).
    """
    form = _FORMS.get(tag)
    match = form and form.fullmatch(contents)
    if not match:
        raise der.DerError(f"bad time {contents[:32]!r} (tag {tag:#04x})")
    year, month, day, hour, minute, second = (
        int(match[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    )
    if tag == der.UTC_TIME:
        year += 2000 if year < 50 else 1900
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError as error:
        raise der.DerError(f"bad time {contents[:32]!r}: {error}") from error
    return int(moment.timestamp()) - _seconds(match["offset"] or b"+0000")


def _seconds(offset: bytes) -> int:
    """Read an offset from UTC, like +0130."""
    seconds = int(offset[1:3]) * 3600 + int(offset[3:5]) * 60
    return -seconds if offset.startswith(b"-") else seconds
