"""Everything that knows a Redis key. Nothing else does."""
