"""The page at `/` in Chromium, against a real gateway."""
