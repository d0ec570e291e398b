"""When to accept that a log returns no proofs. No I/O; the caller passes the time.

One replica may lack what another has signed. So the policy accepts that there is no proof only
after several refusals, over some time. A log that was accepted before is accepted at once until it
returns a proof. An outage is no refusal.
"""

from ingestor.client.errors import InvalidResponse, LogError, UnexpectedStatus

_MIN_REFUSALS = 3
# Between two requests of a proof to start from, while entries are published unproven.
_INITIAL_BACKOFF_SECS = 60.0
_MAX_BACKOFF_SECS = 3600.0


class MissingProofPolicy:
    """The missing proofs of one log.

    Args:
        min_secs: seconds for which the log must refuse proofs before that is accepted.
        enforced: whether entries wait for proofs. If not, an outage counts as a refusal, because
            it must not delay the entries for ever.

    Attributes:
        mute: whether missing proofs were accepted and no proof was returned since.
    """

    def __init__(self, min_secs: float, *, enforced: bool) -> None:
        self.mute = False
        self._min_secs = min_secs
        self._enforced = enforced
        self._count = 0
        self._since = 0.0
        self._backoff = _INITIAL_BACKOFF_SECS
        self._not_before = 0.0

    def accepted(self, error: LogError, now: float) -> bool:
        """Count a missing proof; return whether another request is useless."""
        if self._enforced and not _is_refusal(error):
            return False
        self._count += 1
        if self._count == 1:
            self._since = now
        return self.mute or (self._count >= _MIN_REFUSALS and now - self._since >= self._min_secs)

    def reset(self) -> None:
        """Forget the refusals: something was proven, or another tree head is tried."""
        self._count = 0

    def record(self) -> None:
        """Note that the log returned a proof."""
        self.mute = False

    def proven(self) -> None:
        """Note that entries were proven, with a proof or without."""
        self.reset()
        self._backoff = _INITIAL_BACKOFF_SECS

    def can_request(self, now: float) -> bool:
        """Return whether a proof to start from may be requested."""
        return now >= self._not_before

    def back_off(self, now: float) -> None:
        """Delay the next request of a proof to start from; each time twice as long."""
        self._not_before = now + self._backoff
        self._backoff = min(2 * self._backoff, _MAX_BACKOFF_SECS)


def _is_refusal(error: LogError) -> bool:
    """Return whether the log answered that it has no proof; an outage leaves that open."""
    if isinstance(error, UnexpectedStatus):
        return 400 <= error.status < 500 and error.status != 429
    return isinstance(error, InvalidResponse)
