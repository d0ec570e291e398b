"""The whole server as its users run it: real processes, real Redis, real clients."""
