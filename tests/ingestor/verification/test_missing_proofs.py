"""When a log is accepted without a proof."""

from ingestor.client.errors import ConnectionFailed, InvalidResponse, UnexpectedStatus
from ingestor.verification.missing_proofs import MissingProofPolicy

NOT_FOUND = UnexpectedStatus("log", "url", "HTTP 404", 404, None)


def test_it_is_assumed_after_many_failures_over_a_long_time() -> None:
    often = MissingProofPolicy(10, enforced=True)
    assert [often.accepted(NOT_FOUND, now) for now in (0, 1, 2, 9)] == [False] * 4
    assert often.accepted(NOT_FOUND, 10)
    long = MissingProofPolicy(10, enforced=True)
    assert [long.accepted(NOT_FOUND, now) for now in (0, 60, 61)] == [False, False, True]


def test_a_proof_restarts_the_count() -> None:
    refusals = MissingProofPolicy(10, enforced=True)
    for now in (0, 5):
        refusals.accepted(NOT_FOUND, now)
    refusals.proven()
    assert [refusals.accepted(NOT_FOUND, now) for now in (20, 21, 29)] == [False] * 3


def test_an_outage_has_no_effect_while_entries_can_wait() -> None:
    errors = [
        ConnectionFailed("log", "url", "time-out"),
        UnexpectedStatus("log", "url", "HTTP 503", 503, None),
    ]
    enforced = MissingProofPolicy(10, enforced=True)
    warned = MissingProofPolicy(10, enforced=False)
    for now in range(0, 60, 2):
        assert not enforced.accepted(errors[now % 4 // 2], now)
        assert warned.accepted(errors[now % 4 // 2], now) == (now >= 10)


def test_a_log_known_to_serve_none_is_accepted_at_once_until_it_serves_one() -> None:
    refusals = MissingProofPolicy(10, enforced=True)
    refusals.mute = True
    assert refusals.accepted(InvalidResponse("log", "url", "a page"), 0)
    refusals.record()
    refusals.reset()
    assert not refusals.accepted(NOT_FOUND, 1)


def test_requests_for_the_first_proof_become_ever_rarer() -> None:
    refusals = MissingProofPolicy(10, enforced=False)
    now = 0.0
    pauses: list[float] = []
    while len(pauses) < 8:
        refusals.back_off(now)
        begun = now
        while not refusals.can_request(now):
            now += 30
        pauses.append(now - begun)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
