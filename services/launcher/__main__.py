"""Entry point of `certstream-server` and `python -m launcher`.

SIGHUP makes a service read its configuration again, and ends a process that has no handler for it.
So it is blocked before anything else is imported; `cli.main` unblocks it in the commands that end
on it.
"""

import signal
import sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

from launcher.optional_modules import hide  # noqa: E402 - after that

hide()

from launcher.cli import main  # noqa: E402 - after that

if __name__ == "__main__":
    sys.exit(main())
