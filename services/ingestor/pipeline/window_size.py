"""How many entries to ask a log for at once. Pure: no I/O, no clock.

A log answers get-entries with as many entries as it likes, whatever it is asked for: some stop at
their own maximum (32, 256, 1000), some also at multiples of it. Windows therefore end at multiples
of their size, and shrink to what the log is seen to return. One short answer proves nothing (it may
have ended at such a multiple), so it takes two with no full one between them.

Only answers to requests of the whole size teach anything: at the head of a log, requests are as
small as what is new. What made windows small may pass (a busy log, one huge entry), so after a few
full answers they double again, up to what is configured. A log that stops at its maximum answers a
doubled window in two requests, which is what two windows would have taken.

The tiles of a static-ct log are what they are: their size never changes.
"""

# Full answers in a row after which windows double.
_GROW_AFTER = 8


class WindowSize:
    """The size of the windows of one log.

    Args:
        size: entries, as configured.
        tile: entries come in fixed groups of this many (static-ct), one group a request.

    Attributes:
        size: entries, at present.
        least: a smaller request makes no smaller answer.
    """

    def __init__(self, size: int, tile: int | None = None) -> None:
        self.size = self._most = tile or max(1, size)
        self.least = tile or 1
        self._short = 0  # most entries of the short answers since the last full one
        self._full = 0  # full answers since the last change or short one

    def end(self, start: int, head: int) -> int:
        """Where the window that begins at `start` ends (exclusive), in a tree of `head` entries."""
        return min(head, (start // self.size + 1) * self.size)

    def answered(self, asked: int, got: int) -> None:
        """Learn from an answer of `got` entries to a request for `asked`."""
        if asked != self.size:  # near the head, or asked before the size changed
            return
        if got >= asked:
            self._short = 0
            self._full += 1
            if self._full >= _GROW_AFTER:
                self._resize(self.size * 2)
        elif self._short:
            self._resize(max(self._short, got))
        else:
            self._short, self._full = got, 0

    def too_large(self, asked: int) -> None:
        """Learn that the answer to a request for `asked` entries was too large."""
        if asked == self.size:
            self._resize(asked // 2)

    def unreadable(self) -> None:
        """Learn that a window cannot be read at all: smaller ones tell which entry it is."""
        self._resize(self.size // 2)

    def _resize(self, size: int) -> None:
        self.size = min(max(size, self.least), self._most)
        self._short = self._full = 0
