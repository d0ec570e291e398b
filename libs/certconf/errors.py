"""What is wrong with a configuration, told so that one reading is enough to mend it."""

import msgspec


class SourceLocation(msgspec.Struct, frozen=True):
    """Where a value was written: a file and line, a variable, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class ConfigProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong.

    Attributes:
        origin: where it was written.
        key: the dotted setting, like `ct_log.batch_size` or `custom_logs[0].url`; empty when the
            file as a whole is meant.
        message: what was given, and what is allowed instead.
    """

    origin: SourceLocation
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.key, self.message) if part)


class WrongForm(ValueError):
    """A text is not what its setting needs; says why, without the text."""


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has every reason, in the order written."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
