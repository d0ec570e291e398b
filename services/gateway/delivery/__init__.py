"""Delivery: batches from Redis to the transports of all subscribers.

Guarantees:

* A subscriber receives each message of its stream once, in order, or a gap message in its place.
* The gateway reads and encodes each batch once, whatever the number of subscribers.
* Memory is bounded: rings and history by bytes, a stalled subscriber by one shared write.
* With a filter, a subscriber receives exactly the messages that pass it; the ids are the same.
* A slow or failing subscriber delays no other one.

How:

consumer     read the streams, with one reader per process, and append to the rings
ring_buffer  the newest batches of a stream, bounded by bytes
encoding     the bytes of WebSocket frames, server-sent events and gap messages
compression  compressed WebSocket frames, made once for all clients
sse_gzip     compressed server-sent events, made once for all clients
channel      one stream in one encoding with its subscribers; the flusher writes to all channels
filtering    channels that deliver only the messages that pass a filter
filter_index       which messages pass which filters, looked up once for all streams
filter_messages    what filters compare of a message, and what matched
history      read older batches from Redis, shared by all clients that replay them

The consumer alone appends to the rings. The flusher alone moves a channel forward.

Tests: tests/gateway/delivery, tests/gateway/test_delivery_model.py (any loss in Redis, any reading
speed, with and without filters), tests/gateway/clients/test_replay.py,
tests/gateway/test_supervision.py (failing clients).
"""
