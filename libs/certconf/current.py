"""The configuration as it is now, for whoever goes by it for longer than a moment."""

import asyncio
from collections import Counter

from certconf.settings import Config


class ConfigHolder:
    """Holds the newest configuration, and tells when there is a newer one.

    Attributes:
        config: the newest that could be used.
        reloads: how often it was read again, by result: "applied", "unchanged", "refused".
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reloads = Counter({"applied": 0, "unchanged": 0, "refused": 0})
        self._replaced = asyncio.Event()

    def replace(self, config: Config) -> None:
        """Go by another configuration from now on."""
        self.config = config
        replaced, self._replaced = self._replaced, asyncio.Event()
        replaced.set()

    async def wait_for_change(self, than: Config) -> Config:
        """Wait until there is another configuration than that one; of several the newest."""
        while self.config is than:
            await self._replaced.wait()
        return self.config
