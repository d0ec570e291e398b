"""Reading the configuration again: on SIGHUP, and when the file changes if `hot_reload` says so.

The command line and the environment keep their precedence, as they are read again with the file.
What cannot be used changes nothing.
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

log = structlog.get_logger(__name__)

_STDERR: Final = 2


def block_sighup() -> None:
    """Block SIGHUP: one that arrives stays pending until it is unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def release_hang_ups() -> None:
    """Unblock SIGHUP, which ends the process unless it has a handler."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class ConfigReloader:
    """Keeps a service's configuration up to date.

    Args:
        service: which settings concern this process.
        present: gets the newer configurations.
        read: reads the configuration.
        pass_on: called on SIGHUP, to pass it on.
        quiet: whether somebody else tells what a configuration has to tell.
    """

    def __init__(
        self,
        service: Service,
        present: ConfigHolder,
        read: Callable[[], Config],
        *,
        pass_on: Callable[[], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self._service: Service = service
        self._present = present
        self._read = read
        self._pass_on = pass_on
        self._quiet = quiet
        self._due = asyncio.Event()
        self._had_terminal = sys.stderr.isatty()

    def install_handlers(self) -> None:
        """Take SIGHUP for a reason to read the configuration, from now on."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        release_hang_ups()

    async def run(self) -> None:
        """Read the configuration whenever there is a reason to, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            settings, file = self._present.config.hot_reload, self._present.config.file
            if settings.enabled and (path := settings.watch_path or file):
                log.info("configuration is watched", path=str(path))
                tasks.create_task(watch(path, self._due.set))
            while True:
                await self._due.wait()
                self._due.clear()
                try:
                    await self.reload()
                except Exception:  # whatever is wrong, the server goes on as it is
                    self._present.reloads["refused"] += 1
                    log.exception("configuration not read again")

    async def reload(self) -> None:
        """Read the configuration, and go by what of it applies at once."""
        present = self._present
        try:
            # In a thread: a large file takes longer than clients should wait.
            wanted = await asyncio.to_thread(self._read)
        except ConfigError as error:
            present.reloads["refused"] += 1
            for problem in error.problems:
                log.error("configuration refused, the one before stays", why=str(problem))
            return
        changed = diff(self._service, present.config, wanted)
        for notice in wanted.notices:
            if not self._quiet and notice not in present.config.notices:
                log.warning("configuration", notice=notice)
        for setting in changed.waiting:
            log.warning("a changed setting needs a restart", setting=setting)
        logging_setup.set_level(changed.config.log_level)
        present.reloads["applied" if changed.applied else "unchanged"] += 1
        present.replace(changed.config)
        log.info("configuration read again", applied=list(changed.applied))

    def _hang_up(self) -> None:
        if self._had_terminal and not os.isatty(_STDERR):
            signal.raise_signal(signal.SIGTERM)  # not a request: the terminal was closed
            return
        self._due.set()
        if self._pass_on is not None:
            self._pass_on()
