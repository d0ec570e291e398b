"""Gateway: follows the streams in Redis and serves them to WebSocket and SSE clients.

feed       Redis -> ring           one reader a process, whatever the number of clients
ring       the newest batches of a stream, and each form of them made once
fanout     ring -> clients         one write a client for everything that is new
client     one client's place in the ring, and what happens when it reads slowly
websocket  sse                     the two kinds of client
http1      reading                 one request -> an answer, or one of the two
table      routes                  which requests there are, and what answers each
api        page                    what can be asked of the whole service; what people see
admission                          who is asking, and may they
frames                             the bytes of both wire formats
app                                puts it together
"""
