"""The corpus: inputs that are kept, because they reach code that others do not, or were findings.

Text is kept as it is, everything else in base64 (`.b64`).
"""

import base64
import hashlib
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def kept(name: str) -> list[bytes]:
    """Return the inputs that are kept for a target."""
    files = sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []
    return [_read(file) for file in files]


def _read(file: Path) -> bytes:
    data = file.read_bytes()
    return base64.b64decode(data) if file.suffix == ".b64" else data


def keep(name: str, data: bytes) -> Path:
    """Write an input of a target to the corpus."""
    text = data.decode(errors="replace").translate(dict.fromkeys(b"\t\n\r", " "))
    is_text = text.isprintable() and "\ufffd" not in text
    suffix, contents = (".txt", data) if is_text else (".b64", base64.encodebytes(data))
    file = CORPUS / name / f"{hashlib.sha256(data).hexdigest()[:16]}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(contents)
    return file
