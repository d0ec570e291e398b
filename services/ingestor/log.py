"""One log as the rest of the ingestor knows it, and the id it goes by in Redis.

A log has a URL, and usually a key whose SHA-256 is its log id (RFC 6962 section 3.2). URLs are
spelt in many ways and keys are not always known, so `normalise` makes URLs comparable and
`identify` gives a log without a known key an id that stays the same from start to start.
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
_DIGEST = 32


class Kind(StrEnum):
    """Which API a log serves its entries by; the values are those of `source.type`."""

    RFC6962 = "rfc6962"
    STATIC_CT = "static-ct"


class Drain(msgspec.Struct, frozen=True):
    """How a log that is over is brought to its end; seconds since the epoch.

    Attributes:
        due: it takes nothing more from then on, so what it has then is all.
        given_up: it is dropped then, whatever it still has: it cannot be read any more.
    """

    due: float
    deadline: float


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """A log to follow.

    Attributes:
        id: hex log id, or `url-<hex SHA-256 of the normalised URL>` while no key is known.
        name: for people.
        url: where its entries are read, as it was listed or configured (static-ct: the
            monitoring prefix).
        kind: which API is there.
        operator: who runs it; empty when unknown.
        state: its state in a log list (`usable`, `readonly`, …), `configured` without one.
        since: when it entered that state, seconds since the epoch, if its list says so.
        key: DER SubjectPublicKeyInfo, when known.
        origin: static-ct: first line of its checkpoint, when known.
        end_exclusive: seconds since the epoch; it takes no certificate that expires later
            (or at that moment). None: it has no temporal interval.
        mmd: its maximum merge delay, seconds.
        listed_at: scheme and authority of the URL of the list that names it, or "file"; None if
            it is configured. A listed log may not lead to addresses that its list could not.
        integrity: what becomes of what it does not prove, when this log has its own setting.
        batch_size: entries a request, when this log has its own setting.
        poll_interval_ms: milliseconds between tree heads, when this log has its own setting.
        drain: set if the log is over.
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
    integrity: Integrity | None = None
    batch_size: int | None = None
    poll_interval_ms: int | None = None
    drain: Drain | None = None

    @property
    def base(self) -> str:
        """`url` without a slash at the end: endpoints are appended to it."""
        return self.url.rstrip("/")

    def skip_hint(self, index: int) -> str:
        """What an operator can do about entries before this index that hold the log up."""
        command = f"certstream-server skip {shlex.quote(self.name)} --to {index}"
        return f"`{command}` goes on behind it"

    @property
    def key_sha256(self) -> bytes | None:
        """The 32 bytes of the log id, when the log has a real one."""
        return None if self.id.startswith("url-") else bytes.fromhex(self.id)


def normalise(url: str) -> str:
    """One spelling for all spellings of a log's URL.

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
    """The hex log id of a DER SubjectPublicKeyInfo (RFC 6962 section 3.2)."""
    return hashlib.sha256(key).hexdigest()


def read_log_id(text: str) -> str:
    """A log id as people write it, base64 or hex, to hex.

    Raises:
        ValueError: it is not 32 bytes in either form.
    """
    try:
        if len(text) == 2 * _DIGEST:
            return bytes.fromhex(text).hex()
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"log id {text!r} is neither base64 nor hex") from error
    if len(raw) != _DIGEST:
        raise ValueError(f"log id {text!r} has {len(raw)} bytes, a SHA-256 has {_DIGEST}")
    return raw.hex()


def url_id(url: str) -> str:
    """The id of a log of which only the URL is known."""
    return f"url-{hashlib.sha256(normalise(url).encode()).hexdigest()}"


def resolve_log_id(
    key: bytes | None, expected: str | None, url: str, listed: Mapping[str, str]
) -> str:
    """The id of a log, from the best that is known of it.

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
