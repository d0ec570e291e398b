"""An independent reader of WebSocket frames from the server, with or without compression."""

import zlib

TEXT = 1


class Inflater:
    """A client that has negotiated permessage-deflate with context takeover (RFC 7692).

    Attributes:
        compressed: number of compressed messages so far.
        sizes: bytes of each frame with a text message, header included.
    """

    def __init__(self) -> None:
        self.compressed = 0
        self.sizes: list[int] = []
        self._inflate = zlib.decompressobj(wbits=-15)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the text messages that the received bytes complete."""
        data = self._rest + data
        texts, position = [], 0
        while position + 2 <= len(data):
            first, length = data[position : position + 2]
            size = {126: 2, 127: 8}.get(length, 0)
            start = position + 2 + size
            if size:
                length = int.from_bytes(data[position + 2 : start])
            end = start + length
            if start > len(data) or end > len(data):
                break
            assert first & 0x80, "fragmented"
            payload = data[start:end]
            if first & 0x40:
                self.compressed += 1
                payload = self._inflate.decompress(payload + b"\x00\x00\xff\xff")
                assert not self._inflate.unconsumed_tail
            if first & 0x0F == TEXT:
                texts.append(payload)
                self.sizes.append(end - position)
            position = end
        self._rest = data[position:]
        return texts
