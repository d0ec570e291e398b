"""When a log that has given no proof is believed to have none. Pure: no I/O, the time is given.

The replica asked may not have what another one has signed, so a log is believed only when it has
said so several times, for some while. One that was believed before is believed at once, until it
gives a proof. What is no answer at all (an outage) says nothing.
"""

from ingestor.client.errors import InvalidResponse, LogError, UnexpectedStatus

_ATTEMPTS = 3
# Seconds before a log is asked for a proof to start from again, if its entries are published
# without.
_PAUSE = 60.0
_LONGEST_PAUSE = 3600.0


class MissingProofPolicy:
    """Those of one log.

    Args:
        hope: seconds that it may go on refusing before it is believed.
        enforced: whether its entries wait for proofs; if not, an outage is as good as a refusal,
            for it must not hold them up for ever.

    Attributes:
        mute: whether it was believed, and has given no proof since.
    """

    def __init__(self, hope: float, *, enforced: bool) -> None:
        self.mute = False
        self._hope = hope
        self._enforced = enforced
        self._count = 0
        self._since = 0.0
        self._pause = _PAUSE
        self._not_before = 0.0

    def accepted(self, error: LogError, now: float) -> bool:
        """Count one; say whether asking again is no use, as far as anybody can tell."""
        if self._enforced and not _is_refusal(error):
            return False
        self._count += 1
        if self._count == 1:
            self._since = now
        return self.mute or (self._count >= _ATTEMPTS and now - self._since >= self._hope)

    def reset(self) -> None:
        """Forget them: something was proven, or another tree head is tried."""
        self._count = 0

    def record(self) -> None:
        """The log has given a proof."""
        self.mute = False

    def proven(self) -> None:
        """Something was proven, with a proof or without."""
        self.reset()
        self._pause = _PAUSE

    def can_request(self, now: float) -> bool:
        """Whether it may be asked for a proof to start from."""
        return now >= self._not_before

    def back_off(self, now: float) -> None:
        """Ask for none to start from for a while, longer each time."""
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _is_refusal(error: LogError) -> bool:
    """Whether a log says that it has no proof; else it said nothing, and may have one."""
    if isinstance(error, UnexpectedStatus):
        return 400 <= error.status < 500 and error.status != 429
    return isinstance(error, InvalidResponse)
