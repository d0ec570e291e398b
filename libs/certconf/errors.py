"""Problems of a configuration, each with its location, the invalid value and the valid ones."""

import msgspec


class SourceLocation(msgspec.Struct, frozen=True):
    """The source of a value: a file and line, a variable, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class ConfigProblem(msgspec.Struct, frozen=True):
    """One problem.

    Attributes:
        origin: source of the value.
        key: the dotted setting, like `ct_log.batch_size` or `custom_logs[0].url`; empty for the
            whole file.
        message: the invalid value, and the valid ones.
    """

    origin: SourceLocation
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.key, self.message) if part)


class WrongForm(ValueError):
    """A text is invalid for its setting. The message has the reason, without the text."""


class ConfigError(Exception):
    """The configuration is invalid; `problems` has every problem, in the order of the files."""

    def __init__(self, problems: tuple[ConfigProblem, ...]) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
