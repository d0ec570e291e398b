"""Certificate Transparency data as bytes in, messages out.

Pure: no I/O, no asyncio, no clock. What a log serves (RFC 6962 or static-ct) becomes an
`Entry`, an `Entry` becomes a `Message`; whatever cannot be read becomes a `Rejected`.
"""
