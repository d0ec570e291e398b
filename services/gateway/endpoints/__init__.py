"""What can be asked of all gateways and ingestors together, from any gateway.

sight        the directory in Redis, read once for all who ask within a moment
stats logs   what it says, in the words of certstream-server-rust's API, and more
latest       the newest messages
cert         one certificate, by its hash
examples     one recent message of a stream
subscribing  requests that make the connection a client
messages     the shapes of the messages, and their JSON Schemas
openapi      the document that describes all of it, out of the table that the router goes by
"""
