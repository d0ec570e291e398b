"""What gateways in this process have compressed."""

from collections.abc import Sequence

import pytest

from gateway.delivery.compression import SharedContext, SharedFrames


@pytest.fixture
def compressed_slots(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Entry id and bytes of each slot that a shared context has compressed, in order."""
    found: list[tuple[str, int]] = []
    frames = SharedContext.frames

    def recording(
        context: SharedContext, entry: str, first: int, messages: Sequence[bytes]
    ) -> SharedFrames | None:
        made = frames(context, entry, first, messages)
        if made is not None:
            found.append((entry, len(made.data)))
        return made

    monkeypatch.setattr(SharedContext, "frames", recording)
    return found
