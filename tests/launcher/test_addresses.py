"""The URLs that `up` prints."""

from certconf import load
from launcher.commands.up.addresses import urls


def test_each_stream_that_is_offered_has_a_url() -> None:
    config = load(None, {}, {"streams.v2": True, "streams.lite": False, "host": "::1"})
    base = "://[::1]:8080"
    assert [url for url, _ in urls(config)] == [
        f"ws{base}/full-stream",
        f"ws{base}/domains-only",
        f"ws{base}/v2",
        f"http{base}/sse",
        f"http{base}/",
        f"http{base}/health",
    ]
    nothing_to_make_it_of = load(
        None, {}, {"streams.v2": True, "streams.lite": False, "streams.full": False}
    )
    assert not [url for url, _ in urls(nothing_to_make_it_of) if url.endswith("/v2")]
