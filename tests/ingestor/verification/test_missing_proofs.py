"""When a log without a proof is believed."""

from ingestor.client.errors import ConnectionFailed, InvalidResponse, UnexpectedStatus
from ingestor.verification.missing_proofs import MissingProofPolicy

NOT_FOUND = UnexpectedStatus("log", "url", "HTTP 404", 404, None)


def test_it_is_believed_when_it_has_said_so_often_and_for_long() -> None:
    often = MissingProofPolicy(10, enforced=True)
    assert [often.accepted(NOT_FOUND, now) for now in (0, 1, 2, 9)] == [False] * 4
    assert often.accepted(NOT_FOUND, 10)
    long = MissingProofPolicy(10, enforced=True)
    assert [long.accepted(NOT_FOUND, now) for now in (0, 60, 61)] == [False, False, True]


def test_what_was_proven_meanwhile_counts() -> None:
    refusals = MissingProofPolicy(10, enforced=True)
    for now in (0, 5):
        refusals.accepted(NOT_FOUND, now)
    refusals.proven()
    assert [refusals.accepted(NOT_FOUND, now) for now in (20, 21, 29)] == [False] * 3


def test_an_outage_says_nothing_while_entries_can_wait() -> None:
    errors = [
        ConnectionFailed("log", "url", "time-out"),
        UnexpectedStatus("log", "url", "HTTP 503", 503, None),
    ]
    patient, hasty = MissingProofPolicy(10, enforced=True), MissingProofPolicy(10, enforced=False)
    for now in range(0, 60, 2):
        assert not patient.accepted(errors[now % 4 // 2], now)
        assert hasty.accepted(errors[now % 4 // 2], now) == (now >= 10)


def test_a_log_known_to_have_none_is_believed_at_once_until_it_gives_one() -> None:
    refusals = MissingProofPolicy(10, enforced=True)
    refusals.mute = True
    assert refusals.accepted(InvalidResponse("log", "url", "a page"), 0)
    refusals.record()
    refusals.reset()
    assert not refusals.accepted(NOT_FOUND, 1)


def test_it_is_asked_to_start_from_a_proof_ever_more_rarely() -> None:
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
