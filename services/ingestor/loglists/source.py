"""One configured log list: what it is called, and what of it is believed. No network, no Redis.

A list says which keys to trust. So one that should be signed and is not, or not by the right key,
is refused, and so is one older than the one held: replayed, it would bring back logs that were
retired since. An unsigned list is as good as the TLS it came by; what it may change is up to
`merge.py` and `retirement.py`.
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

DEFAULT = (GOOGLE_LIST, APPLE_LIST)
"""The lists that are followed when `log_lists` says nothing."""

Reason = Literal["unreachable", "too_large", "signature", "malformed", "empty", "older"]
REASONS: Sequence[Reason] = ("unreachable", "too_large", "signature", "malformed", "empty", "older")
"""Why a list was refused."""


class ListRejected(Exception):
    """A list that is not believed.

    Attributes:
        reason: one of `REASONS`.
        wait: seconds for which its server wants to be left alone.
    """

    def __init__(self, reason: Reason, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.reason = reason
        self.wait = wait


class VerifiedList(msgspec.Struct, frozen=True):
    """A list that is believed.

    Attributes:
        copy: as it was served.
        edition: which one it is.
        says: what it says.
    """

    copy: RawList
    edition: ListVersion
    says: LogList


class Source(msgspec.Struct, frozen=True):
    """A configured list.

    Attributes:
        setting: where it is, and how it is verified.
    """

    setting: Setting

    @property
    def id(self) -> str:
        """What it is called in Redis: another one where it would be verified in another way."""
        setting = self.setting
        parts = (setting.url, setting.signature_url or "", setting.key or "", str(setting.unsigned))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people call it: `google`, `apple`, else its URL without user, password and query."""
        known = {GOOGLE_LIST.url: "google", APPLE_LIST.url: "apple"}
        return known.get(self.setting.url, self.url)

    @property
    def url(self) -> str:
        """Its URL, as far as it is nobody's secret."""
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
        """Whether it can retire logs, and say whose key is whose."""
        return not self.setting.unsigned

    @property
    def signature_url(self) -> str | None:
        """Where its signature is."""
        given = self.setting.signature_url
        return GOOGLE_LIST.signature_url if given is None and self.is_signed else given

    def verify(self, copy: RawList) -> VerifiedList:
        """Decide whether to believe a copy of the list.

        Raises:
            Refusal: no; says why.
        """
        if self.is_signed:
            try:
                verify_log_list(copy.body, copy.signature, _pem(self.setting))
            except (BadSignature, BadKey, ValueError, OSError) as error:
                raise ListRejected("signature", str(error)) from error
        try:
            says = parse(copy.body, self.server)
        except Malformed as error:
            raise ListRejected("malformed", str(error)) from error
        if not says.logs:
            unreadable = f": {says.unreadable[0]}" if says.unreadable else ""
            raise ListRejected("empty", f"it names no log that can be read{unreadable}")
        digest = hashlib.sha256(copy.body).hexdigest()
        return VerifiedList(
            copy, ListVersion(says.rank, digest, says.version, says.published_at), says
        )

    def bundled(self) -> VerifiedList | None:
        """The copy in this package, if it is of this list."""
        if not self.is_signed or self.setting.url != GOOGLE_LIST.url:
            return None
        try:
            return self.verify(RawList(bundled_list("log_list.json"), bundled_list("log_list.sig")))
        except ListRejected:  # the operator trusts another key than Google's
            return None


def bundled_list(name: str) -> bytes:
    """A file of `ingestor/data`: log_list.json, log_list.sig or log_list_pubkey.pem."""
    return resources.files("ingestor").joinpath("data", name).read_bytes()


def _pem(setting: Setting) -> bytes:
    """The PEM of a list's key: a file, or the base64 of a SubjectPublicKeyInfo."""
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
