"""What a user of the `certstream` package writes: print the first messages of a stream.

Usage: python listen.py URL COUNT
"""

import json
import os
import sys
from typing import Any

import certstream

url, count = sys.argv[1], int(sys.argv[2])
received = 0


def show(message: dict[str, Any], _: object) -> None:
    global received  # noqa: PLW0603 - the callback of certstream has no other place
    print(json.dumps(message), flush=True)
    received += 1
    if received == count:
        os._exit(0)


certstream.listen_for_events(show, url=url)
