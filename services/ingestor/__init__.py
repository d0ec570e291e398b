"""Which logs exist -> who owns them -> fetch -> parse -> publish."""
