"""Where tests find the files of the checkout, however deep they are themselves."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
