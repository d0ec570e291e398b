"""Keys of certstream-server-rust's config.yaml that have another name here, or are unused.

Its files load unchanged: an older name sets the present setting; an unused key is accepted, with a
notice that names the setting or mechanism with its purpose.
"""

from collections.abc import Mapping
from typing import Final

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

#: Unused settings -> their replacement.
UNUSED: Final[Mapping[str, str]] = {
    "buffer_size": "retention.full, .lite and .domains limit how far back each client can read",
    "dedup.capacity": "dedup.ttl_secs limits deduplication by time, without a number",
    "ct_log.catalog_authority_overrides": "log_lists names the log lists, each verified by its "
    "own signature",
    "ct_log.checkpoint_signature_mode": "ct_log.integrity sets how tree heads and entries that do "
    "not verify are treated",
    "ct_logs_url": "log_lists names the log lists, each with its signature and key",
    "additional_log_lists": "log_lists names the log lists, each with its signature and key",
    "api.cache_capacity": "certificates are looked up in Redis while they are retained",
}


def apply_aliases(settings: YamlNode, notices: list[str]) -> None:
    """Rename older names, and remove unused settings."""
    for old, new in RENAMED.items():
        if (node := _take(settings, old)) is None:
            continue
        if not set_path(settings, new, node, replace=False):
            notices.append(f"{node.origin}: {old} is the older name of {new}, which is given too")
    for key, instead in UNUSED.items():
        if (node := _take(settings, key)) is not None:
            notices.append(f"{node.origin}: {key} is not needed here: {instead}")
    api = _members(settings).get("api")
    if api is not None and not _members(api):
        del _members(settings)["api"]


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
