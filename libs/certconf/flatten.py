"""A configuration by dotted names, without secrets."""

from typing import Any

import msgspec

from certconf.build import iter_settings
from certconf.settings import Config


def flatten(config: Config) -> dict[str, Any]:
    """Return every setting by its dotted name, in types of JSON. Secrets are masked."""
    values: dict[str, Any] = {}
    for key in iter_settings():
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = _without_unset(msgspec.to_builtins(value, enc_hook=str))
    return values


def _without_unset(value: Any) -> Any:
    """Return the items of a list without their unset members."""
    if not isinstance(value, list | tuple):
        return value
    return [
        {name: given for name, given in item.items() if given is not None}
        if isinstance(item, dict)
        else item
        for item in value
    ]
