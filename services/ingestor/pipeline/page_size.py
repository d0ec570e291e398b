"""The size of a log's pages: the most entries that one answer holds. No I/O, no clock.

A log answers get-entries with fewer entries than requested: it stops at its own maximum (32, 256,
1000), and often at multiples of it. So requests end at multiples of the page, and one request is
one page. The page is learned from short answers. The first one may only end at such a multiple, so
it teaches nothing, unless it starts at entry 0; the next one, which starts where that ended, does.

The reason for a small page may pass (a busy log, one huge entry), so after some full answers one
request has twice the size, up to the configured one. If its answer is full, the size doubles. A log
that stops at its page answers that request in two, as many as two pages take; each failed attempt
makes the next one rarer.

The tiles of a static-ct log have a fixed size.
"""

_GROW_AFTER = 8
"""Full answers in a row after which the size doubles, if the log did not choose it."""

_MAX_SHORT = 64
"""Short answers that are remembered."""

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
        is_known: whether the log has shown it; few requests at a time are enough until then.
        least: entries of the smallest useful request.
    """

    def __init__(self, most: int, tile: int | None = None) -> None:
        self.size = self._max = tile or max(1, most)
        self.least = tile or 1
        self.is_known = tile is not None
        self._is_chosen = False  # whether the log has answered with fewer entries than requested
        self._short: dict[int, int] = {}  # end of each last short answer -> its entries
        self._full = 0  # full answers since the last change or short one
        self._grow_after = _GROW_AFTER
        self._may_try = False  # whether the next request has twice the size
        self._tried = -1  # where the one begins that has

    @property
    def learned(self) -> int | None:
        """The page that the log chose; None if that is not known, or it chose none."""
        return self.size if self._is_chosen else None

    def assume(self, page: int) -> None:
        """Begin with a page that the log has shown before."""
        if not self.is_known and 1 <= page < self._max:
            self._learn(page)

    def end(self, start: int, head: int) -> int:
        """Return where the request that begins at `start` ends (exclusive), at most `head`."""
        size = min(2 * self.size, self._max) if self._may_try else self.size
        multiple = start - start % size if self.is_known else start
        return min(head, multiple + size)

    def record_request(self, start: int, requested: int) -> None:
        """Note that a request is sent for `requested` entries from `start`."""
        if self._may_try and requested > self.size:
            self._may_try, self._tried = False, start

    def record_answer(self, start: int, requested: int, returned: int) -> None:
        """Adapt to an answer of `returned` entries to a request for `requested` from `start`."""
        if start == self._tried:
            self._tried = -1
            if returned <= self.size:
                self._grow_later()
                return
            self._resize(2 * self.size)
        if returned >= requested:
            if requested >= self.size:  # not near the head, nor sent before the size changed
                self.is_known = True
                self._short.clear()
                self._full += 1
                self._may_try = self._full >= self._grow_after and self.size < self._max
            return
        self._full = 0
        before = self._short.pop(start, None)
        if start == 0 or before is not None:
            self._learn(max(returned, before or 0))
            return
        self._short[start + returned] = returned
        if len(self._short) > _MAX_SHORT:
            del self._short[next(iter(self._short))]

    def record_too_large(self, requested: int) -> None:
        """Adapt to an answer of too many bytes to a request for `requested` entries."""
        if requested == self.size:
            self._shrink()
        elif requested > self.size:
            self._grow_later()

    def record_unreadable(self) -> None:
        """Halve the size after a page that cannot be read, to find the entry."""
        self._shrink()

    def _learn(self, page: int) -> None:
        """Take over the page that the log chose."""
        self.is_known = True
        if page >= self.size:
            return
        self._resize(page)
        self._is_chosen, self._grow_after = True, _TRY_AFTER

    def _grow_later(self) -> None:
        self._full, self._may_try = 0, False
        self._grow_after = min(2 * self._grow_after, _MAX_TRY_AFTER)

    def _shrink(self) -> None:
        self.is_known = True
        self._resize(self.size // 2)
        self._is_chosen, self._grow_after = False, _GROW_AFTER

    def _resize(self, size: int) -> None:
        self.size = min(max(size, self.least), self._max)
        self._short.clear()
        self._full, self._may_try = 0, False
