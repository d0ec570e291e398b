"""The number of entries in one request to a log. No I/O, no clock.

A log answers get-entries with fewer entries than requested: some stop at their own maximum (32,
256, 1000), some also at multiples of it. Windows therefore end at multiples of their size, and
shrink to what the log returns. One short answer is not enough (it may end at such a multiple): it
takes two with no full one between them.

Only answers to requests of the whole size count: at the head of a log, requests are as small as
what is new. The reason for small windows may pass (a busy log, one huge entry), so they double
after a few full answers, up to the configured size. A log that stops at its maximum answers a
doubled window in two requests, as many as two windows take.

The tiles of a static-ct log have a fixed size.
"""

_GROW_AFTER = 8
"""Full answers in a row after which windows double."""


class WindowSize:
    """The size of the windows of one log.

    Args:
        size: entries, as configured.
        tile: size of the log's tiles, if it has any (static-ct); one tile a request.

    Attributes:
        size: entries, at present.
        least: entries of the smallest useful request.
    """

    def __init__(self, size: int, tile: int | None = None) -> None:
        self.size = self._max = tile or max(1, size)
        self.least = tile or 1
        self._short = 0  # most entries of the short answers since the last full one
        self._full = 0  # full answers since the last change or short one

    def end(self, start: int, head: int) -> int:
        """Return where the window that begins at `start` ends (exclusive), at most `head`."""
        return min(head, (start // self.size + 1) * self.size)

    def record_answer(self, requested: int, returned: int) -> None:
        """Adapt to an answer of `returned` entries to a request for `requested`."""
        if requested != self.size:  # near the head, or sent before the size changed
            return
        if returned >= requested:
            self._short = 0
            self._full += 1
            if self._full >= _GROW_AFTER:
                self._resize(self.size * 2)
        elif self._short:
            self._resize(max(self._short, returned))
        else:
            self._short, self._full = returned, 0

    def record_too_large(self, requested: int) -> None:
        """Adapt to an answer of too many bytes to a request for `requested` entries."""
        if requested == self.size:
            self._resize(requested // 2)

    def record_unreadable(self) -> None:
        """Halve the size after a window that cannot be read, to find the entry."""
        self._resize(self.size // 2)

    def _resize(self, size: int) -> None:
        self.size = min(max(size, self.least), self._max)
        self._short = self._full = 0
