"""Which logs of log lists a configuration excludes. No I/O.

An exclusion never applies to a log in `custom_logs` or `static_logs`: naming it there is the more
specific setting. Operators compare by `operator_key`, logs by their normalised URL.
"""

from collections.abc import Collection, Iterable, Sequence

from certbus.keys import operator_key
from certconf.settings import Config
from ingestor.log import Log, normalise


class Exclusions:
    """The excluded operators and logs of one configuration."""

    def __init__(self, config: Config) -> None:
        settings = config.ct_log
        self._operators = {operator_key(name): name for name in settings.excluded_operators}
        self._urls = {normalise(url): url for url in settings.excluded_logs}
        configured = [log.url for log in config.custom_logs]
        configured += [log.url for log in config.static_logs]
        self._configured = set(map(normalise, configured))

    def cover(self, log: Log) -> bool:
        """Return whether a log must not be followed."""
        url = normalise(log.url)
        if url in self._configured:
            return False
        return url in self._urls or operator_key(log.operator) in self._operators

    def unmatched_operators(self, keys: Collection[str]) -> Sequence[str]:
        """Return the configured names that are none of these operators."""
        return [name for key, name in self._operators.items() if key not in keys]

    def unmatched_logs(self, logs: Iterable[Log]) -> Sequence[str]:
        """Return the configured URLs that are of none of these logs."""
        urls = {normalise(log.url) for log in logs}
        return [given for url, given in self._urls.items() if url not in urls]
