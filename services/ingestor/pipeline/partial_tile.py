"""When the entries after the last full tile of a log are read. No I/O, no clock.

A log that grows shows its newest tile at many widths. Each is a request that no cache has answered
before. So these entries wait until their tile is full, or until some of them have waited for
`wait` seconds (`ct_log.partial_tile_wait_secs`).

A run that ends at a full tile needs a proof; one that ends at the tree head needs none.
"""


class PartialTile:
    """The newest tile of one log. The follower's task owns it.

    Args:
        tile: entries of a tile; None: the log has no tiles, so nothing waits.
        wait: seconds.
    """

    def __init__(self, tile: int | None, wait: float) -> None:
        self._tile = tile
        self._wait = wait
        self._first = -1  # index of the first entry that waits
        self._since = 0.0
        self._until = 0  # entries before this have waited

    def limit(self, next_index: int, shown: int, now: float) -> int:
        """Return up to where entries may be read (exclusive): `shown`, or the last full tile.

        Args:
            next_index: of the next entry to publish.
            shown: size of the largest tree head that the log has shown.
            now: seconds of a monotonic clock.
        """
        if self._tile is None or not self._wait:
            return shown
        first = max(next_index, self._until, shown // self._tile * self._tile)
        if first >= shown:
            self._first = -1
            return shown
        if first != self._first:
            self._first, self._since = first, now
        if now - self._since < self._wait:
            return first
        self._until = shown
        return shown

    def release(self) -> None:
        """Let the entries that wait be read now: the run that ends before them has no proof."""
        self._since = float("-inf")

    def due(self, next_index: int) -> float | None:
        """Return when the entries that wait are to be read; None if none wait."""
        waits = self._until <= self._first and next_index <= self._first
        return self._since + self._wait if waits else None
