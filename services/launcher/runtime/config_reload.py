"""Read the configuration again: on SIGHUP, and with `hot_reload` when its file changes.

The command line and the environment keep their precedence, as they are read again with the file.
An invalid configuration changes nothing. `up` forwards SIGHUP to its children, so that every
process reads the file itself. The parts of a service await changes of their `ConfigHolder`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

import structlog

from certconf import Config, ConfigError, ConfigHolder
from certconf.reload_policy import Service, diff
from launcher.runtime import logging_setup
from launcher.runtime.file_watch import watch
from launcher.runtime.systemd import Notifier

log = structlog.get_logger(__name__)

_STDERR: Final = 2


def block_sighup() -> None:
    """Block SIGHUP: one that arrives stays pending until it is unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def unblock_sighup() -> None:
    """Unblock SIGHUP, which ends the process unless it has a handler."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class ConfigReloader:
    """Keeps the configuration of a service up to date.

    Args:
        service: selects the settings that concern this process.
        current: gets each newer configuration.
        read: reads the configuration.
        forward: called on SIGHUP, to forward it to the children.
        quiet: whether the supervisor logs the notices of the configuration.
    """

    def __init__(
        self,
        service: Service,
        current: ConfigHolder,
        read: Callable[[], Config],
        *,
        forward: Callable[[], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self._service: Service = service
        self._current = current
        self._read = read
        self._forward = forward
        self._quiet = quiet
        self._requested = asyncio.Event()
        self._had_terminal = sys.stderr.isatty()

    def install_handlers(self) -> None:
        """Handle SIGHUP from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_sighup)
        unblock_sighup()

    async def run(self, notifier: Notifier) -> None:
        """Read the configuration on each SIGHUP and change of its file, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            settings, file = self._current.config.hot_reload, self._current.config.file
            if settings.enabled and (path := settings.watch_path or file):
                log.info("configuration watched", path=str(path))
                tasks.create_task(watch(path, self._requested.set))
            while True:
                await self._requested.wait()
                self._requested.clear()
                notifier.reloading()
                try:
                    await self.reload()
                except Exception:  # the service keeps its configuration
                    self._current.reloads["refused"] += 1
                    log.exception("configuration reload failed")
                notifier.reloaded()

    async def reload(self) -> None:
        """Read the configuration, and replace the current one by it."""
        current = self._current
        try:
            # In a thread: a large file would delay messages to clients.
            loaded = await asyncio.to_thread(self._read)
        # OSError: no descriptor is free, and filters need modules that were not imported yet.
        except (ConfigError, OSError) as error:
            current.reloads["refused"] += 1
            for problem in error.problems if isinstance(error, ConfigError) else [error]:
                log.error("configuration rejected", why=str(problem))
            return
        changed = diff(self._service, current.config, loaded)
        for notice in loaded.notices:
            if not self._quiet and notice not in current.config.notices:
                log.warning("configuration notice", notice=notice)
        for setting in changed.waiting:
            log.warning("restart required", setting=setting)
        logging_setup.set_level(changed.config.log_level)
        current.reloads["applied" if changed.applied else "unchanged"] += 1
        current.replace(changed.config)
        log.info("configuration reloaded", applied=list(changed.applied))

    def _on_sighup(self) -> None:
        if self._had_terminal and not os.isatty(_STDERR):
            signal.raise_signal(signal.SIGTERM)  # not a request: the terminal was closed
            return
        self._requested.set()
        if self._forward is not None:
            self._forward()
