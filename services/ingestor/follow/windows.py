"""How many entries to ask a log for at once. Pure: no I/O, no clock.

A log answers get-entries with as many entries as it likes, whatever it is asked for: some stop at
their own maximum (32, 256, 1000), some also at multiples of it. Windows therefore end at multiples
of their size, and shrink to what the log is seen to return. One short answer proves nothing (it may
have ended at such a multiple), so it takes two with no full one between them.

(Growing again, and adapting to how fast a log answers, would belong here.)
"""


class WindowSize:
    """The size of the windows of one log.

    Args:
        size: entries, as configured.
        tile: entries come in fixed groups of this many (static-ct), one group a request.
    """

    def __init__(self, size: int, tile: int | None = None) -> None:
        self.size = tile or max(1, size)
        self._short = 0  # most entries of the short answers since the last full one

    def end(self, start: int, head: int) -> int:
        """Where the window that begins at `start` ends (exclusive), in a tree of `head` entries."""
        return min(head, (start // self.size + 1) * self.size)

    def answered(self, asked: int, got: int) -> None:
        """Learn from an answer of `got` entries to a request for `asked`."""
        if got >= asked:
            self._short = 0
        elif self._short:
            self.size = min(self.size, max(self._short, got))
            self._short = 0
        else:
            self._short = got

    def halve(self, asked: int) -> int:
        """Learn that the answer to a request for `asked` entries was too large; returns half."""
        self.size = max(1, min(self.size, asked // 2))
        return max(1, asked // 2)
