"""Values that must not appear in a log, an error or a repr."""

from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

MASK: Final = "***"
REDIS_SCHEMES: Final = ("redis", "rediss", "unix")


class Secret:
    """Text that shows itself only when asked to by name.

    Deliberately not a `str`: formatting, logging and encoding one by accident yield the mask.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
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
    """Where Redis is: `redis://`, `rediss://` (TLS) or `unix://`; `str()` masks its password."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        """Check the URL's form.

        Raises:
            ValueError: not the URL of a Redis; the text is not repeated in it.
        """
        parts = urlsplit(text)
        if parts.scheme not in REDIS_SCHEMES:
            raise ValueError("not a redis://, rediss:// or unix:// URL")
        if parts.scheme == "unix":
            if not parts.path.startswith("/"):
                raise ValueError("not an absolute socket path: unix:///run/redis.sock")
        elif not parts.hostname or (parts.port is not None and parts.port < 1):
            raise ValueError("a URL without a host, or with a wrong port")
        super().__init__(text)

    def with_password(self, password: str) -> "RedisURL":
        """The same URL with `password`, unless it carries one already."""
        parts = urlsplit(self._text)
        if parts.password is not None:
            return self
        user, _, host = parts.netloc.rpartition("@")
        return RedisURL(urlunsplit(parts._replace(netloc=f"{user}:{quote(password, '')}@{host}")))

    def __str__(self) -> str:
        parts = urlsplit(self._text)
        user, at, host = parts.netloc.rpartition("@")
        if at:
            host = f"{user.partition(':')[0]}:{MASK}@{host}"
        # redis-py also takes the password from the query (`?password=`); none of it is shown.
        return urlunsplit((parts.scheme, host, parts.path, MASK if parts.query else "", ""))
