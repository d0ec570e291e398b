"""Follow the streams -> ring -> WebSocket and SSE clients."""
