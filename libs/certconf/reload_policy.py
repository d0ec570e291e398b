"""Which changed settings apply at once, and which need a restart.

`POLICIES` states it for every setting and service. A service that reads its configuration again
applies the result of `diff`: a setting that needs a restart keeps the value with which the service
started, so that no part uses a mix of two configurations.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from certconf.secret import RedisURL
from certconf.settings import FACTS, Config

Service = Literal["gateway", "ingestor", "up"]


class ReloadPolicy(msgspec.Struct, frozen=True):
    """The services that use a setting.

    Attributes:
        live: services in which a new value applies at once.
        restart: services in which it applies when they start again.
    """

    live: tuple[Service, ...] = ()
    restart: tuple[Service, ...] = ()


_GATEWAY: Final = ReloadPolicy(live=("gateway",))
_INGESTOR: Final = ReloadPolicy(live=("ingestor",))
_REDIS: Final = ReloadPolicy(restart=("gateway", "ingestor", "up"))

#: Setting, or section for its settings that are not listed -> the services that use it.
POLICIES: Final[Mapping[str, ReloadPolicy]] = {
    "host": ReloadPolicy(restart=("gateway", "up")),
    "port": ReloadPolicy(restart=("gateway", "up")),
    "log_level": ReloadPolicy(live=("gateway", "ingestor", "up")),
    "access_log": _GATEWAY,
    "tls_cert": ReloadPolicy(restart=("gateway",)),
    "tls_key": ReloadPolicy(restart=("gateway",)),
    "base_path": _GATEWAY,
    "protocols": _GATEWAY,
    "streams": ReloadPolicy(live=("gateway", "ingestor")),
    "streams.chain_der": ReloadPolicy(restart=("ingestor",)),
    "ct_log": ReloadPolicy(restart=("ingestor",)),
    "ct_log.rfc6962_enabled": _INGESTOR,
    "ct_log.static_ct_enabled": _INGESTOR,
    "ct_log.excluded_operators": _INGESTOR,
    "ct_log.excluded_logs": _INGESTOR,
    "ct_log.removed_log_policy": _INGESTOR,
    "ct_log.unhealthy_threshold": ReloadPolicy(live=("gateway",), restart=("ingestor",)),
    "dedup": _INGESTOR,
    "connection_limit": _GATEWAY,
    "connection_limit.forget_after_secs": ReloadPolicy(restart=("gateway",)),
    "rate_limit": _GATEWAY,
    "auth": _GATEWAY,
    "allow": _GATEWAY,
    "trusted_proxies": _GATEWAY,
    "filters": _GATEWAY,
    "hot_reload": ReloadPolicy(restart=("gateway", "ingestor", "up")),
    "custom_logs": _INGESTOR,
    "static_logs": _INGESTOR,
    "log_lists": _INGESTOR,
    "redis_url": _REDIS,
    "redis_read_url": ReloadPolicy(restart=("gateway",)),
    "redis_password_file": _REDIS,
    "redis_sentinel_password_file": _REDIS,
    "redis_prefix": _REDIS,
    "codec": ReloadPolicy(restart=("ingestor",)),
    "retention": ReloadPolicy(live=("gateway", "ingestor")),
    "state_dir": ReloadPolicy(restart=("up",)),
    "drain_secs": ReloadPolicy(restart=("gateway",)),
    "admin": ReloadPolicy(restart=("gateway", "ingestor")),
    "contact": ReloadPolicy(restart=("ingestor",)),
}


class Change(msgspec.Struct, frozen=True):
    """The result of a reload.

    Attributes:
        config: the new current configuration.
        applied: changed settings in it that the service uses.
        waiting: changed settings that keep their value until the service restarts.
    """

    config: Config
    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def diff(service: Service, running: Config, loaded: Config) -> Change:
    """Return the configuration of a service with `running` after it has read `loaded`."""
    settings = [
        setting
        for setting in changed_settings(running, loaded)
        if not _has_new_password(setting, running, loaded)
    ]
    waiting = tuple(setting for setting in settings if service in policy_of(setting).restart)
    applied = tuple(setting for setting in settings if service in policy_of(setting).live)
    config = loaded
    for setting in waiting:
        config = _with(config, running, setting.split("."))
    return Change(config, applied, waiting)


def _has_new_password(setting: str, running: Config, loaded: Config) -> bool:
    """Whether only a password in a file differs, which each new connection reads."""
    before, after = getattr(running, setting, None), getattr(loaded, setting, None)
    return (
        isinstance(before, RedisURL)
        and isinstance(after, RedisURL)
        and before.is_same_but_for_files(after)
    )


def changed_settings(
    before: msgspec.Struct, after: msgspec.Struct, section: str = ""
) -> Iterator[str]:
    """Yield every dotted setting that differs; a list counts as one setting."""
    for field in before.__struct_fields__:
        if isinstance(before, Config) and field in FACTS:
            continue
        old, new = getattr(before, field), getattr(after, field)
        if old == new:
            continue
        if isinstance(old, msgspec.Struct) and isinstance(new, msgspec.Struct):
            yield from changed_settings(old, new, f"{section}{field}.")
        else:
            yield f"{section}{field}"


def policy_of(setting: str) -> ReloadPolicy:
    """Return the policy of a dotted setting."""
    while setting not in POLICIES:
        setting, _, _ = setting.rpartition(".")
    return POLICIES[setting]


def _with(struct: Any, source: Any, path: list[str]) -> Any:
    """Return `struct` with the value of `source` at `path`."""
    field, *rest = path
    value = getattr(source, field)
    if rest:
        value = _with(getattr(struct, field), value, rest)
    return msgspec.structs.replace(struct, **{field: value})
