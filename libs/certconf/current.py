"""The current configuration of a process."""

import asyncio
from collections import Counter

from certconf.settings import Config


class ConfigHolder:
    """Holds the newest valid configuration, and wakes those that wait for a newer one.

    Shared by all tasks of a process; only its `ConfigReloader` writes it.

    Attributes:
        config: the newest valid configuration.
        reloads: count of reloads by result: "applied", "unchanged", "refused".
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reloads = Counter({"applied": 0, "unchanged": 0, "refused": 0})
        self._replaced = asyncio.Event()

    def replace(self, config: Config) -> None:
        """Replace the configuration."""
        self.config = config
        replaced, self._replaced = self._replaced, asyncio.Event()
        replaced.set()

    async def wait_for_change(self, than: Config) -> Config:
        """Wait until the configuration is another than that one, and return the newest."""
        while self.config is than:
            await self._replaced.wait()
        return self.config
