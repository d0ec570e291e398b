"""Processes that the tests start, watch and kill, and nothing else."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

CERTSTREAM_SERVER = (sys.executable, "-m", "launcher")
LAST_LINES = 4000


class Process:
    """One process. What it prints goes to `<name>.log`, also after a restart."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._command = command
        self._directory = directory
        # Settings of the machine that runs the tests must not apply.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CERTSTREAM_")}
        self._environment = {**inherited, **(environment or {})}
        self._printed_before = 0  # bytes of the log
        self._popen = self._start()

    @property
    def printed(self) -> str:
        """What it has printed since its last start."""
        return self.log.read_bytes()[self._printed_before :].decode(errors="replace")

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._popen.kill()
        self._popen.wait()

    def restart(self) -> None:
        """Start it again after a `kill`."""
        assert not self.running
        self._popen = self._start()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal that it lives through."""
        self._popen.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send it a signal to end, and return its exit status.

        Raises:
            AssertionError: it does not end in time; it is killed then.
        """
        self._popen.send_signal(number)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self} still runs {seconds} s after {number.name}") from None

    def __str__(self) -> str:
        """Name, state and the end of the log: what a failing test should show."""
        state = "running" if self.running else f"ended with {self._popen.returncode}"
        return f"{self.name} ({state}):\n{self.log.read_text()[-LAST_LINES:]}"

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._printed_before = log.tell()
            return subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
