"""The endpoints of the public address, which any gateway answers for the whole cluster.

Every response about the cluster comes from Redis or from the rings, so all gateways answer alike.
`tests/gateway/endpoints/` holds that, and that document and responses agree.

table.py       all routes
router.py      the route of a request; ETags
subscribe.py   requests that make the connection a WebSocket or SSE client
filter_change.py   WebSocket messages that replace a filter
latest.py      recent messages
cert.py        one certificate, by its hash
stats.py logs.py health.py   the cluster snapshot as statistics, logs, and health
schemas.py     types of the messages, and their JSON Schemas
openapi.py     the OpenAPI document
homepage/      the landing page
"""
