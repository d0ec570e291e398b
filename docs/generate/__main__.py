"""Update docs/operations.md."""

from docs.generate.page import PAGE, generated

PAGE.write_text(generated(PAGE.read_text()))
