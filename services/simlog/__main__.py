"""Run with `python -m simlog`."""

import sys

from simlog.cli import main

sys.exit(main())
