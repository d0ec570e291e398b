"""Values that must not appear in a log, an error or a repr."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit, urlunsplit

from certconf.addresses import is_host
from certconf.errors import WrongForm

MASK: Final = "***"
REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

_DATABASE: Final = re.compile(r"(/\d{0,9})?", re.ASCII)
_ANY: Final = re.compile(r".+", re.DOTALL)
#: Supported options in the query of a Redis URL, as in redis-py.
_OPTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    "db": re.compile(r"\d{1,9}", re.ASCII),
    "username": _ANY,
    "password": _ANY,
}
#: Additional options for `rediss://`.
_TLS_OPTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    "ssl_cert_reqs": re.compile(r"none|optional|required"),
    "ssl_check_hostname": re.compile(r"true|false", re.IGNORECASE),
    "ssl_ca_certs": _ANY,
    "ssl_ca_path": _ANY,
    "ssl_certfile": _ANY,
    "ssl_keyfile": _ANY,
    "ssl_password": _ANY,
}
#: Additional options for `redis+sentinel://`.
_SENTINEL_OPTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    "role": re.compile(r"primary|replica"),
    "sentinel_username": _ANY,
    "sentinel_password": _ANY,
}
_SERVICE: Final = re.compile(r"/[A-Za-z0-9._-]+(/\d{0,9})?", re.ASCII)


class Secret:
    """Text that only `reveal` returns.

    Not a `str`: formatting, logging or encoding one by accident yields the mask.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class RedisURL(Secret):
    """A URL of Redis: `redis://`, `rediss://` (TLS) or `unix://`; `str()` masks its password.

    With sentinels: `redis+sentinel://host1:26379,host2/service/0`, `rediss+sentinel://` for TLS.

    Attributes:
        password_file: the file that the password was read from; None if the URL had it.
        sentinel_password_file: the same for the password of the sentinels.
    """

    __slots__ = ("password_file", "sentinel_password_file")

    def __init__(
        self,
        text: str,
        password_file: Path | None = None,
        sentinel_password_file: Path | None = None,
    ) -> None:
        """Check the syntax of the URL.

        Raises:
            WrongForm: it is invalid. The message has no part of the text except names of options.
        """
        self.password_file = password_file
        self.sentinel_password_file = sentinel_password_file
        if text.partition("://")[0].endswith("+sentinel"):
            _check_sentinels(text)
            super().__init__(text)
            return
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
            text.encode()
        except ValueError:  # its message may hold a part of a password
            raise WrongForm(
                "a port is a number, and / and [ in a password are %2F and %5B"
            ) from None
        if parts.scheme not in REDIS_SCHEMES:
            raise WrongForm(
                "it begins with none of redis://, rediss://, unix:// and redis+sentinel://"
            )
        if parts.scheme == "unix":
            if not parts.path.startswith("/") or "\0" in text:
                raise WrongForm("a socket's path is absolute: unix:///run/redis.sock")
        elif not host or not is_host(host) or port == 0:
            raise WrongForm("a host is missing or not a name or address, or the port is 0")
        elif not _DATABASE.fullmatch(unquote(parts.path)):
            raise WrongForm("after the host comes the number of a database, as in redis://host/0")
        _check_options(parts.query, _options_of(parts.scheme))
        super().__init__(text)

    @property
    def has_sentinels(self) -> bool:
        """Whether sentinels name the address of Redis."""
        return self._text.partition("://")[0].endswith("+sentinel")

    def is_same_but_for_files(self, other: "RedisURL") -> bool:
        """Whether only the content of the password files differs between the URLs."""
        return _but_for_files(self) == _but_for_files(other)

    def with_password(self, password: str, file: Path | None = None) -> "RedisURL":
        """Return the URL with `password`, read from `file`, unless it has one already."""
        parts = _split(self._text)
        if parts.password is not None:
            return self
        user, _, host = parts.netloc.rpartition("@")
        netloc = f"{user}:{quote(password, '')}@{host}"
        text = urlunsplit(parts._replace(netloc=netloc))
        return RedisURL(text, file, self.sentinel_password_file)

    def with_sentinel_password(self, password: str, file: Path) -> "RedisURL":
        """Return the URL with the password of the sentinels, read from `file`.

        The same URL if it names no sentinels, or has the password already.
        """
        parts = _split(self._text)
        if not self.has_sentinels or "sentinel_password=" in parts.query:
            return self
        option = f"sentinel_password={quote(password, '')}"
        query = f"{parts.query}&{option}" if parts.query else option
        return RedisURL(urlunsplit(parts._replace(query=query)), self.password_file, file)

    def __str__(self) -> str:
        parts = _split(self._text)
        user, at, host = parts.netloc.rpartition("@")
        if at:
            host = f"{user.partition(':')[0]}:{MASK}@{host}"
        # redis-py also accepts the password in the query (`?password=`), which is masked whole.
        return urlunsplit((parts.scheme, host, parts.path, MASK if parts.query else "", ""))


def _split(text: str) -> SplitResult:
    """Split a URL; since Python 3.14, urlsplit accepts no brackets within a list of sentinels."""
    scheme, _, rest = text.partition("://")
    if not scheme.endswith("+sentinel"):
        return urlsplit(text)
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    return SplitResult(scheme, netloc, slash + path, query, "")


def _but_for_files(url: RedisURL) -> tuple[object, ...]:
    parts = _split(url.reveal())
    netloc, options = parts.netloc, parse_qsl(parts.query)
    if url.password_file is not None:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}@{host}"
    if url.sentinel_password_file is not None:
        options = [each for each in options if each[0] != "sentinel_password"]
    files = url.password_file, url.sentinel_password_file
    return parts.scheme, netloc, parts.path, options, *files


def _check_sentinels(text: str) -> None:
    """Check a URL with sentinels.

    Raises:
        WrongForm: it is invalid.
    """
    scheme = text.partition("://")[0]
    if scheme not in REDIS_SCHEMES:
        raise WrongForm("sentinels need redis+sentinel:// or rediss+sentinel://")
    try:
        parts = _split(text)
        text.encode()
        hosts = [urlsplit(f"//{each}") for each in parts.netloc.rpartition("@")[2].split(",")]
        valid = all(each.hostname and is_host(each.hostname) and each.port != 0 for each in hosts)
    except ValueError:
        valid = False
    if not valid:
        raise WrongForm("sentinels are host:port, separated by commas, and one has another form")
    if not _SERVICE.fullmatch(unquote(parts.path)):
        raise WrongForm(
            "after the sentinels come the service and the number of a database: "
            "redis+sentinel://host1,host2/service/0"
        )
    _check_options(parts.query, {**_options_of(scheme), **_SENTINEL_OPTIONS})


def _options_of(scheme: str) -> Mapping[str, re.Pattern[str]]:
    return {**_OPTIONS, **(_TLS_OPTIONS if scheme.startswith("rediss") else {})}


def _check_options(query: str, options: Mapping[str, re.Pattern[str]]) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in options:
            needs = "needs rediss://" if name in _TLS_OPTIONS else "is none of its options"
            raise WrongForm(f"{name[:40]!r} {needs}: {', '.join(options)}")
        if not options[name].fullmatch(value):
            raise WrongForm(f"the option {name} has a wrong value")
