"""certstream-server-rust's config.yaml and state file: keys with another name here, or unused ones.

Its files load unchanged: an older name sets the present setting. An unused key is accepted if its
value is valid, with a notice that names the setting or mechanism with its purpose. There is no
notice where nothing takes the place of a value: an output that is off.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from certconf.build import convert_value
from certconf.errors import ConfigProblem
from certconf.settings import Count, Positive, PositiveFloat, Text
from certconf.yaml_document import YamlNode

#: Names of older releases -> the present setting.
RENAMED: Final[Mapping[str, str]] = {
    "rate_limit.free_max_tokens": "rate_limit.max_tokens",
    "rate_limit.free_refill_rate": "rate_limit.refill_rate",
    "rate_limit.free_burst": "rate_limit.burst",
    "rate_limit.standard_max_tokens": "rate_limit.standard.max_tokens",
    "rate_limit.standard_refill_rate": "rate_limit.standard.refill_rate",
    "rate_limit.standard_burst": "rate_limit.standard.burst",
    "rate_limit.premium_max_tokens": "rate_limit.premium.max_tokens",
    "rate_limit.premium_refill_rate": "rate_limit.premium.refill_rate",
    "rate_limit.premium_burst": "rate_limit.premium.burst",
}


class Unused(msgspec.Struct, frozen=True):
    """A setting without effect.

    Attributes:
        kind: the type of its valid values.
        instead: what takes its place; empty if another setting's notice covers it.
        idle: the value that has no effect in the peer either, and so gets no notice.
    """

    kind: Any
    instead: str = ""
    idle: Any = msgspec.UNSET


_LISTS: Final = "log_lists names the log lists, each with its signature and key"
_INTEGRITY: Final = (
    "ct_log.integrity alone decides how tree heads and entries that do not verify are treated"
)
_NATS: Final = (
    "there is no NATS output; `certstream-server tail` in a pipe takes its place, and resumes"
)

UNUSED: Final[Mapping[str, Unused]] = {
    "buffer_size": Unused(
        Count, "retention.full, .lite and .domains limit how far back each client can read"
    ),
    "dedup.capacity": Unused(
        Count, "dedup.ttl_secs limits deduplication by time, without a number"
    ),
    "ct_log.catalog_authority_overrides": Unused(
        Mapping[str, bool], "log_lists names the log lists, each verified by its own signature"
    ),
    "ct_log.checkpoint_signature_mode": Unused(Literal["off", "warn", "enforce"], _INTEGRITY),
    "ct_log.merkle_verification": Unused(Literal["off", "consistency", "full"], _INTEGRITY),
    "ct_log.names_tiles": Unused(
        Literal["off", "prefer"],
        "names tiles are not read: names that no tree head proves are never published",
        idle="off",
    ),
    "ct_log.force_http1_operators": Unused(tuple[Text, ...], "every log is read over HTTP/1.1"),
    "ct_logs_url": Unused(Text, _LISTS),
    "additional_log_lists": Unused(tuple[Text, ...], _LISTS),
    "api.cache_capacity": Unused(Count, "certificates are looked up in Redis while retained"),
    "nats.enabled": Unused(bool, _NATS, idle=False),
    "nats.url": Unused(Text),
    "nats.stream": Unused(Text),
    "nats.subject_prefix": Unused(Text),
    "nats.max_bytes": Unused(int),
    "nats.duplicate_window_secs": Unused(PositiveFloat),
    "nats.publish_timeout_secs": Unused(PositiveFloat),
    "nats.queue_depth": Unused(Positive),
    "nats.on_full": Unused(Literal["block", "drop"]),
}

#: Sections of the peer that have no setting here.
_SECTIONS: Final = ("api", "nats")


def apply_aliases(settings: YamlNode, problems: list[ConfigProblem], notices: list[str]) -> None:
    """Rename older names, check and remove unused settings."""
    for old, new in RENAMED.items():
        if (node := _take(settings, old)) is None:
            continue
        if not set_path(settings, new, node, replace=False):
            notices.append(f"{node.origin}: {old} is the older name of {new}, which is given too")
    for key, unused in UNUSED.items():
        if (node := _take(settings, key)) is None:
            continue
        value = convert_value(unused.kind, node, key, problems)
        if unused.instead and value not in (msgspec.UNSET, unused.idle):
            notices.append(f"{node.origin}: {key} has no effect here: {unused.instead}")
    for section in _SECTIONS:
        node = _members(settings).get(section)
        if node is None or not (node.value is None or isinstance(node.value, dict)):
            continue  # build.py reports it
        del _members(settings)[section]
        known = ", ".join(key.partition(".")[2] for key in UNUSED if key.startswith(f"{section}."))
        problems += [
            ConfigProblem(child.origin, f"{section}.{name}", f"no such setting: expected {known}")
            for name, child in _members(node).items()
        ]


class _LogPosition(msgspec.Struct):
    current_index: int


class _State(msgspec.Struct):
    logs: dict[str, _LogPosition]
    version: int = 1


def read_state_file(path: Path) -> dict[str, int]:
    """Return the URL of each log in the peer's state file -> index of the next entry to read.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, msgspec.DecodeError: it cannot be read.
    """
    state = msgspec.json.decode(path.read_bytes(), type=_State)
    return {url: log.current_index for url, log in state.logs.items()}


def set_path(settings: YamlNode, key: str, node: YamlNode, *, replace: bool = True) -> bool:
    """Set the dotted `key` to `node`, creating its sections; return whether it was set.

    A section that is not a mapping stays; build.py reports it.
    """
    *sections, name = key.split(".")
    for section in sections:
        members = _members(settings)
        if section not in members or members[section].value is None:
            members[section] = YamlNode({}, node.origin)
        settings = members[section]
    members = _members(settings)
    if not replace and name in members:
        return False
    members[name] = node
    return True


def _take(settings: YamlNode, key: str) -> YamlNode | None:
    *sections, name = key.split(".")
    for section in sections:
        settings = _members(settings).get(section, YamlNode({}, settings.origin))
    return _members(settings).pop(name, None)


def _members(node: YamlNode) -> dict[str, YamlNode]:
    return node.value if isinstance(node.value, dict) else {}
