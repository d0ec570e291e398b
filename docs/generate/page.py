"""The page: which parts it has, and how they are put in."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs.generate.endpoints import endpoints
from docs.generate.metrics import gateway_metrics, ingestor_metrics, label_values
from docs.generate.redis import examples, keys
from docs.generate.settings import items, settings, without_effect

PAGE: Final = Path(__file__).parents[1] / "operations.md"

PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings,
    "items": items,
    "without effect": without_effect,
    "endpoints": endpoints,
    "gateway metrics": gateway_metrics,
    "ingestor metrics": ingestor_metrics,
    "label values": label_values,
    "keys": keys,
    "examples": examples,
}


def generated(page: str) -> str:
    """The page with all parts as the code has them now.

    Raises:
        ValueError: the page has no place for a part, or several.
    """
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = make().strip()
        page, places = pattern.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page)  # noqa: B023
        if places != 1:
            raise ValueError(f"{PAGE.name} has {places} places for {name!r}, not one")
    return page
