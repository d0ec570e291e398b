"""The page: its generated parts, and how they are replaced."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.generate.commands import commands
from docs.generate.endpoints import endpoints, errors
from docs.generate.events import log_events
from docs.generate.metrics import gateway_metrics, ingestor_metrics, label_values
from docs.generate.redis import examples, keys
from docs.generate.settings import items, settings, without_effect

PAGE: Final = Path(__file__).parents[1] / "operations.md"

PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings,
    "items": items,
    "without effect": without_effect,
    "endpoints": endpoints,
    "errors": errors,
    "gateway metrics": gateway_metrics,
    "ingestor metrics": ingestor_metrics,
    "label values": label_values,
    "log events": log_events,
    "keys": keys,
    "examples": examples,
    "commands": commands,
}


def generated(page: str) -> str:
    """Return the page with every part generated anew.

    Raises:
        ValueError: the page does not have exactly one place for a part.
    """
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = make().strip()
        page, places = pattern.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page)  # noqa: B023
        if places != 1:
            raise ValueError(f"{PAGE.name} has {places} places for {name!r}, not one")
    return page
