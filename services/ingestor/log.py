"""One CT log: its identity, its settings, and its id in Redis.

A log has a URL, and usually a key whose SHA-256 is its log id (RFC 6962 section 3.2). URLs have
many spellings and a key may be unknown, so `normalise` makes URLs comparable and `resolve_log_id`
gives a log without a known key an id that is the same after each start.
"""

import base64
import binascii
import hashlib
import shlex
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

import msgspec

from certconf.settings import Integrity

_DEFAULT_PORTS = {"http": 80, "https": 443}
_DIGEST_BYTES = 32

READ_MARGIN_SECS = 7 * 86400.0
"""For which a log is read after it has ended, so that a worker that is behind reads all of it."""

MIN_STALE_HEAD_SECS = 3600.0
"""Age below which no log's newest tree head is stale."""

# States of a log list (version 3) in which a log accepts no entry.
_FROZEN_STATES = frozenset({"readonly", "retired", "rejected"})


class Kind(StrEnum):
    """The API that serves a log's entries; the values are those of `source.type`."""

    RFC6962 = "rfc6962"
    STATIC_CT = "static-ct"


class Drain(msgspec.Struct, frozen=True):
    """When to drop a retired log; times of Redis, seconds since the epoch.

    Attributes:
        due: the log includes no more entries after this time; drop it once all are published.
        deadline: drop it at this time even if it cannot be read to its end.
    """

    due: float
    deadline: float


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """A log to follow.

    Attributes:
        id: hex log id, or `url-<hex SHA-256 of the normalised URL>` while no key is known.
        name: for people.
        url: where its entries are read, as listed or configured (static-ct: the monitoring
            prefix).
        kind: the API at that URL.
        operator: its operator; empty if unknown.
        state: its state in a log list (`usable`, `readonly`, …), `configured` without one.
        since: when it entered that state, seconds since the epoch, if its list states it.
        key: DER SubjectPublicKeyInfo, if known.
        origin: static-ct: first line of its checkpoint, if known.
        end_exclusive: seconds since the epoch; it takes no certificate that expires then
            or later. None: it has no temporal interval.
        mmd: its maximum merge delay, seconds.
        listed_at: scheme and authority of the URL of the list that names it, or "file"; None if
            it is configured, empty if that is not known. A listed log may not lead to addresses
            that its list could not.
        unsigned_list: name of the unsigned list that states its operator; empty if a signed list
            or the configuration does, "unknown" if that is not known.
        is_hybrid: whether it answers by RFC 6962 and its entries are read from its full data tiles.
        integrity: how unproven entries are handled, if this log has its own setting.
        batch_size: entries a request, if this log has its own setting.
        poll_interval_ms: milliseconds between tree heads, if this log has its own setting.
        drain: set if the log is retired.
    """

    id: str
    name: str
    url: str
    kind: Kind
    operator: str = ""
    state: str = "configured"
    since: float | None = None
    key: bytes | None = None
    origin: str | None = None
    end_exclusive: float | None = None
    mmd: float = 86400.0
    listed_at: str | None = None
    unsigned_list: str = ""
    integrity: Integrity | None = None
    is_hybrid: bool = False
    batch_size: int | None = None
    poll_interval_ms: int | None = None
    drain: Drain | None = None

    @property
    def max_head_age(self) -> float | None:
        """Seconds after which the log's newest tree head is stale; None if it may stop signing.

        A log signs a tree head at least once in each maximum merge delay (RFC 6962 section 3.5).
        Static-ct logs have one of a minute, and may be late for reasons that need no operator.
        """
        ends = self.state in _FROZEN_STATES or self.drain is not None
        return None if ends else max(self.mmd, MIN_STALE_HEAD_SECS)

    @property
    def base(self) -> str:
        """`url` without a slash at the end, to append endpoints."""
        return self.url.rstrip("/")

    @property
    def slots(self) -> str:
        """Name of its request slots: the operator's, as far as that is known.

        Anyone may have made an unsigned list. What it names shares no slots with other logs, so
        that its logs neither slow nor pause those of an operator whose name it states.
        """
        name = self.operator or urlsplit(self.url).hostname or self.id
        return f"{name} (unsigned list {self.unsigned_list})" if self.unsigned_list else name

    def skip_hint(self, index: int) -> str:
        """Return what an operator can do about unreadable entries before this index."""
        command = f"certstream-server skip {shlex.quote(self.name)} --to {index}"
        return f"`{command}` continues after it"

    @property
    def key_sha256(self) -> bytes | None:
        """The 32 bytes of the log id; None if the key is unknown."""
        return None if self.id.startswith("url-") else bytes.fromhex(self.id)


def normalise(url: str) -> str:
    """Return the canonical spelling of a log's URL.

    Scheme and host in lower case, https when no scheme is given, no default port, no slash at
    the end, no query.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").lower()
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(scheme):
        host = f"{host}:{parts.port}"
    return urlunsplit((scheme, host, parts.path.rstrip("/"), "", ""))


def log_id(key: bytes) -> str:
    """Return the hex log id of a DER SubjectPublicKeyInfo (RFC 6962 section 3.2)."""
    return hashlib.sha256(key).hexdigest()


def read_log_id(text: str) -> str:
    """Convert a log id from base64 or hex to hex.

    Raises:
        ValueError: it is not 32 bytes in either form.
    """
    try:
        if len(text) == 2 * _DIGEST_BYTES:
            return bytes.fromhex(text).hex()
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"log id {text!r} is neither base64 nor hex") from error
    if len(raw) != _DIGEST_BYTES:
        raise ValueError(f"log id {text!r} has {len(raw)} bytes, a SHA-256 has {_DIGEST_BYTES}")
    return raw.hex()


def url_id(url: str) -> str:
    """Return the id of a log of which only the URL is known."""
    return f"url-{hashlib.sha256(normalise(url).encode()).hexdigest()}"


def resolve_log_id(
    key: bytes | None, expected: str | None, url: str, listed: Mapping[str, str]
) -> str:
    """Return the id of a log, from the best information about it.

    Args:
        key: DER SubjectPublicKeyInfo, if known.
        expected: the configured `expected_log_id`, if any.
        url: the log's URL.
        listed: normalised URL -> id of every listed log.

    Raises:
        ValueError: the expected id is unreadable, or is not that of the key.
    """
    claimed = read_log_id(expected) if expected else None
    if key is not None:
        found = log_id(key)
        if claimed is not None and claimed != found:
            raise ValueError(f"{url}: its key has log id {found}, but expected_log_id is {claimed}")
        return found
    if claimed is not None:
        return claimed
    return listed.get(normalise(url)) or url_id(url)
