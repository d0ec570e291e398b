"""Real redis-servers for the tests, each a private process: the wheel's and the machine's own."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import redis

from launcher.runtime.supervisor import exit_with_parent


def executables() -> dict[str, str]:
    """The servers there are, by the name that tests are called by."""
    found = {}
    if (bundled := Path(sys.prefix) / "bin" / "redis-server").exists():
        found["redis6"] = str(bundled)
    if (own := shutil.which("redis-server")) is not None:
        found["redis7"] = own
    if (valkey := shutil.which("valkey-server")) is not None:
        found["valkey"] = valkey
    return found


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Where Debian's libfaketime is, if it is installed: it shifts the clock of one process."""


class RedisServer:
    """A redis-server on a unix socket, which a test may stop, kill, restart and wind back."""

    def __init__(self, executable: str, directory: Path, **settings: str | int) -> None:
        self.directory = directory
        self.socket = directory / "s"
        self.url = f"unix://{self.socket}"
        self._executable = executable
        self._settings = {
            "appendonly": "yes",
            "appendfsync": "no",  # else a write may wait, after its answer, for a sync under way
            "save": "",
            "port": 0,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.data.mkdir(exist_ok=True)
        settings = {**self._settings, "dir": self.data, "unixsocket": self.socket}
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [self._executable, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # SIGXFSZ stays ignored: a write beyond RLIMIT_FSIZE fails, as on a full disk.
            restore_signals=False,
            # Also when the tests are killed. (It calls nothing but prctl.)
            preexec_fn=partial(exit_with_parent, os.getpid(), signal.SIGTERM),  # noqa: PLW1509
            env=self._environment(),
        )
        deadline = time.monotonic() + 20
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    assert self._process.poll() is None, "redis-server does not start"
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.01)
                else:
                    return

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def data(self) -> Path:
        """The directory in which it keeps what it holds."""
        return self.directory / "data"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal that it lives through."""
        assert self._process is not None
        self._process.send_signal(number)

    def limit_file_size(self, spare: int | None) -> None:
        """Let its largest file grow by `spare` bytes at most, as a full disk does; None: by any."""
        assert self._process is not None
        pid, kind = self._process.pid, resource.RLIMIT_FSIZE
        _, most = resource.prlimit(pid, kind)
        largest = max(path.stat().st_size for path in self.data.rglob("*") if path.is_file())
        resource.prlimit(pid, kind, (most if spare is None else largest + spare, most))

    def kill(self) -> None:
        """End it as a crash of the machine would, apart from what the disk already has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def save_aside(self) -> None:
        """Copy the append-only file as it is now. Every answered write is in it."""
        shutil.copytree(self.data, self.directory / "aside")

    def wind_back(self) -> None:
        """Crash, and come back with what `save_aside` had saved."""
        self.kill()
        shutil.rmtree(self.data)
        (self.directory / "aside").rename(self.data)
        self.start()

    def lose_everything(self) -> None:
        """Crash, and come back empty."""
        self.kill()
        shutil.rmtree(self.data)
        self.start()


class ShiftedRedisServer(RedisServer):
    """A redis-server whose clock a test may shift while it runs. Needs `FAKETIME`."""

    def __init__(self, executable: str, directory: Path, **settings: str | int) -> None:
        super().__init__(executable, directory, **settings)
        self._offset = directory / "offset"
        self.shift(0)

    def shift(self, seconds: float) -> None:
        """Set its clock to the machine's plus a number of seconds."""
        written = self._offset.with_suffix(".new")
        written.write_text(f"{seconds:+f}\n")
        written.replace(self._offset)

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            # libc before jemalloc, which reads the time before libfaketime is initialised.
            "LD_PRELOAD": f"{FAKETIME}:libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
