"""The size of a log's pages: the most entries that one answer holds. No I/O, no clock.

A log answers get-entries with fewer entries than requested: it stops at its own maximum (32, 256,
1000), and often at multiples of it. So requests end at multiples of the page, and one request is
one page. The page is learned from short answers. The first one may only end at such a multiple, so
it teaches nothing, unless it starts at entry 0; the next one, which starts where that ended or has
its size, does.

The reason for a small page may pass (a busy log, one huge entry), so the size doubles after some
full answers, up to the configured one. A log that stops at its page answers a doubled request in
two, as many as two pages take; each failed attempt makes the next one rarer.

The tiles of a static-ct log have a fixed size.
"""

_GROW_AFTER = 8
"""Full answers in a row after which the size doubles, if the log did not choose it."""

_TRY_AFTER = 64
_MAX_TRY_AFTER = 8192
"""The same for a page that the log chose: at first, and after failed attempts."""


class PageSize:
    """The pages of one log.

    Args:
        most: entries a request, as configured.
        tile: size of the log's tiles, if it has any (static-ct); one tile a request.

    Attributes:
        size: entries of a page, as far as is known.
        is_known: whether the log has shown it; one request at a time is enough until then.
        least: entries of the smallest useful request.
    """

    def __init__(self, most: int, tile: int | None = None) -> None:
        self.size = self._max = tile or max(1, most)
        self.least = tile or 1
        self.is_known = tile is not None
        self._short: tuple[int, int] | None = None  # entries and end of the last short answer
        self._full = 0  # full answers since the last change or short one
        self._grow_after = _GROW_AFTER
        self._learned = 0  # the last page that the log chose

    def end(self, start: int, head: int) -> int:
        """Return where the request that begins at `start` ends (exclusive), at most `head`."""
        multiple = start - start % self.size if self.is_known else start
        return min(head, multiple + self.size)

    def record_answer(self, start: int, requested: int, returned: int) -> None:
        """Adapt to an answer of `returned` entries to a request for `requested` from `start`."""
        if returned >= requested:
            if requested >= self.size:  # not near the head, nor sent before the size changed
                self.is_known, self._short = True, None
                self._full += 1
                if self._full >= self._grow_after:
                    self._resize(self.size * 2)
            return
        last, self._short = self._short, (returned, start + returned)
        self._full = 0
        if last is not None and start == last[1]:
            self._learn(max(returned, last[0]))
        elif start == 0 or (last is not None and returned == last[0]):
            self._learn(returned)

    def record_too_large(self, requested: int) -> None:
        """Adapt to an answer of too many bytes to a request for `requested` entries."""
        if requested == self.size:
            self._shrink()

    def record_unreadable(self) -> None:
        """Halve the size after a page that cannot be read, to find the entry."""
        self._shrink()

    def _learn(self, page: int) -> None:
        """Take over the page that the log chose."""
        self.is_known = True
        if page >= self.size:
            return
        is_same = page == self._learned
        self._resize(page)
        self._learned = self.size
        self._grow_after = min(2 * self._grow_after, _MAX_TRY_AFTER) if is_same else _TRY_AFTER

    def _shrink(self) -> None:
        self.is_known = True
        self._resize(self.size // 2)
        self._grow_after = _GROW_AFTER

    def _resize(self, size: int) -> None:
        self.size = min(max(size, self.least), self._max)
        self._short, self._full = None, 0
