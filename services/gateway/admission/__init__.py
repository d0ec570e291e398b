"""Admission: which requests and connections the gateway accepts.

Guarantees:

* Rates and connection limits hold over all gateways; without Redis, each gateway enforces them.
* A Redis that does not respond delays a request by at most half a second.
* Token look-ups take the same time for all tokens, and no token is stored or logged.
* Memory is bounded, whatever clients send.

How:

policy              the settings that admission needs; replaced as a whole
client_identity     request -> client address, token owner and tier
credentials         token -> owner
rate_limiter        request rates over all gateways, and of this process without Redis
connection_limiter  connection limits over all gateways
redis_fallback      calls of Redis with a short timeout and a back-off
controller          all steps in order: request -> client identity, or an error response

The reload task alone replaces the policy. Each limiter's `run` alone talks to Redis.

Tests: tests/gateway/admission (several gateways on one Redis, a Redis that fails, a policy change).
"""
