"""Simulated Certificate Transparency logs, RFC 6962 and static-ct, by seed, and the oracle that knows their truth."""
