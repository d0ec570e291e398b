"""The oracle: compares what was delivered with the record of a world."""
