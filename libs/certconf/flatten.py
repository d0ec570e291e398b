"""A configuration for people and programs to read: by dotted names, without secrets."""

from typing import Any

import msgspec

from certconf.build import iter_settings
from certconf.settings import Config


def flatten(config: Config) -> dict[str, Any]:
    """Every setting, by its dotted name, in types that JSON has. Secrets are masked."""
    found: dict[str, Any] = {}
    for key in iter_settings():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        found[key] = _without_unset(msgspec.to_builtins(value, enc_hook=str))
    return found


def _without_unset(value: Any) -> Any:
    """Items of lists without what was not set in them."""
    if not isinstance(value, list | tuple):
        return value
    return [
        {name: given for name, given in item.items() if given is not None}
        if isinstance(item, dict)
        else item
        for item in value
    ]
