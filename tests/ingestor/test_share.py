"""Fair shares that move few logs."""

from hypothesis import given
from hypothesis import strategies as st

from ingestor.share import quota

workers = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 60), min_size=1)


@given(held=workers, logs=st.integers(0, 100))
def test_quotas_add_up_and_differ_by_at_most_one(held: dict[str, int], logs: int) -> None:
    quotas = [quota(held, logs, worker) for worker in held]
    assert sum(quotas) == logs
    assert max(quotas) - min(quotas) <= 1


def test_a_joining_worker_takes_only_its_share() -> None:
    held = {"a": 17, "b": 17, "c": 16, "d": 0}
    quotas = {worker: quota(held, 50, worker) for worker in held}
    assert quotas == {"a": 13, "b": 13, "c": 12, "d": 12}


def test_whoever_holds_more_keeps_the_remainder() -> None:
    held = {"a": 1, "b": 2, "c": 1}
    assert {worker: quota(held, 4, worker) for worker in held} == held
