"""Tasks that run together: their results, errors, and cancellation of the caller."""

import asyncio

import pytest

from certtasks import together


async def returning(value: int, *after: asyncio.Event) -> int:
    for event in after:
        await event.wait()
    return value


async def failing() -> int:
    raise ValueError("failed")


async def test_results_are_in_order() -> None:
    event = asyncio.Event()

    async def first() -> int:
        event.set()
        return 2

    assert await together([returning(1, event), first()]) == [1, 2]
    assert await together(returning(each) for each in range(0)) == []


async def test_an_error_ends_the_others() -> None:
    ended = asyncio.Event()

    async def waiting() -> int:
        try:
            return await returning(0, asyncio.Event())
        finally:
            ended.set()

    with pytest.raises(ValueError, match="failed"):
        await together([waiting(), failing()])
    assert ended.is_set()


@pytest.mark.parametrize("rounds", range(5))
async def test_a_cancellation_that_comes_with_an_error_is_not_lost(rounds: int) -> None:
    async def caller() -> str:
        try:
            await together([returning(0, asyncio.Event()), failing()])
        except ValueError:
            await asyncio.sleep(0)
            return "failed"
        raise AssertionError

    task = asyncio.create_task(caller())
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task])
    assert done == {task}
    # Only a caller that had received the error before may have ended with it.
    assert task.cancelled() or rounds > 3
