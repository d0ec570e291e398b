"""One configured log list: its name, and which copies of it are accepted. No network, no Redis.

A list states which keys to trust. So a list that lacks the signature of its key is rejected, and so
is one older than the current one: replayed, it would reinstate logs that were retired since. An
unsigned list is as trustworthy as the TLS connection it came by; `merge.py` and `retirement.py`
limit what it may change.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from certbus.caches.log_lists import ListVersion, RawList
from certconf.settings import APPLE_LIST, GOOGLE_LIST
from certconf.settings import LogList as Setting
from ctparse.entry import Malformed
from ctparse.signatures import BadKey, BadSignature, verify_log_list
from ingestor.client.addresses import FILE
from ingestor.loglists.parser import LogList, parse

Reason = Literal["unreachable", "too_large", "signature", "malformed", "empty", "older"]
REASONS: Sequence[Reason] = ("unreachable", "too_large", "signature", "malformed", "empty", "older")
"""Why a list was rejected."""


class ListRejected(Exception):
    """A list that is not accepted.

    Attributes:
        reason: one of `REASONS`.
        wait: Retry-After of its server, seconds.
    """

    def __init__(self, reason: Reason, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.reason = reason
        self.wait = wait


class VerifiedList(msgspec.Struct, frozen=True):
    """A list that is accepted.

    Attributes:
        raw: as it was served.
        version: identifies and orders it.
        content: its logs.
    """

    raw: RawList
    version: ListVersion
    content: LogList


class Source(msgspec.Struct, frozen=True):
    """A configured list.

    Attributes:
        setting: its URL, and how it is verified.
    """

    setting: Setting

    @property
    def id(self) -> str:
        """Its id in Redis, which depends on how it is verified."""
        setting = self.setting
        parts = (setting.url, setting.signature_url or "", setting.key or "", str(setting.unsigned))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """`google`, `apple`, else its URL without user, password and query."""
        known = {GOOGLE_LIST.url: "google", APPLE_LIST.url: "apple"}
        return known.get(self.setting.url, self.url)

    @property
    def url(self) -> str:
        """Its URL without user, password and query, which may be secret."""
        parts = urlsplit(self.setting.url)
        if not parts.netloc:
            return self.setting.url
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def server(self) -> str:
        """Scheme and authority of its URL, "file" if it is a file."""
        parts = urlsplit(self.setting.url)
        if parts.scheme not in ("https", "http"):
            return FILE
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def is_signed(self) -> bool:
        """Whether it can retire logs, and state the keys of logs."""
        return not self.setting.unsigned

    @property
    def signature_url(self) -> str | None:
        """The URL of its signature; None if it has none."""
        given = self.setting.signature_url
        return GOOGLE_LIST.signature_url if given is None and self.is_signed else given

    def verify(self, raw: RawList) -> VerifiedList:
        """Verify a copy of the list.

        Raises:
            ListRejected: it is not accepted.
        """
        if self.is_signed:
            try:
                verify_log_list(raw.body, raw.signature, _pem(self.setting))
            except (BadSignature, BadKey, ValueError, OSError) as error:
                raise ListRejected("signature", str(error)) from error
        try:
            content = parse(raw.body, self.server, "" if self.is_signed else self.name)
        except Malformed as error:
            raise ListRejected("malformed", str(error)) from error
        if not content.logs:
            unreadable = f": {content.unreadable[0]}" if content.unreadable else ""
            raise ListRejected("empty", f"it has no log that can be read{unreadable}")
        digest = hashlib.sha256(raw.body).hexdigest()
        return VerifiedList(
            raw, ListVersion(content.rank, digest, content.version, content.published_at), content
        )

    def bundled(self) -> VerifiedList | None:
        """Return the copy in this package, if it is of this list."""
        if not self.is_signed or self.setting.url != GOOGLE_LIST.url:
            return None
        try:
            return self.verify(RawList(bundled_list("log_list.json"), bundled_list("log_list.sig")))
        except ListRejected:  # the operator trusts another key than Google's
            return None


def bundled_list(name: str) -> bytes:
    """Return a file of `ingestor/data`: log_list.json, log_list.sig or log_list_pubkey.pem."""
    return resources.files("ingestor").joinpath("data", name).read_bytes()


def _pem(setting: Setting) -> bytes:
    """Return a list's key as PEM; the setting is a file or a base64 SubjectPublicKeyInfo."""
    if setting.key is None:
        return bundled_list("log_list_pubkey.pem")
    try:
        return Path(setting.key).read_bytes()
    except OSError as error:
        try:
            der = base64.b64decode(setting.key, validate=True)
        except ValueError:
            raise error from None
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"
