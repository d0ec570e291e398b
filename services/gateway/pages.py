"""What can be said without a stream: the index page, ."""

from typing import Final

from gateway.exchange import TEXT, Answer, Request

_TEXT: Final = b"""\
certstream-server: every certificate that Certificate Transparency logs receive, as a live stream.

WebSocket     /               without the certificate's bytes and chain
              /full-stream    everything
              /domains-only   only the names
SSE           /sse?stream=lite, full or domains
Resume        ?cursor=<id of the last message>, or Last-Event-ID; ?cursor=0 from the oldest kept
Examples      /example.json, /full-stream/example.json, /domains-only/example.json
Health        /health, /health/deep
Metrics       /metrics
"""


def index(_: Request) -> Answer:
    """Show what there is."""
    return Answer(200, (TEXT,), _TEXT)
