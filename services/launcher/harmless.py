"""What strangers have written, for a terminal: names in certificates, names and errors of logs."""


def harmless(text: str) -> str:
    """Text as it is, unless it would write more than itself: then with its escapes spelt out."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
