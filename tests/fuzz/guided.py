"""The command `python -m tests.fuzz.guided TARGET DIRECTORY [OPTION ...]`: fuzz guided by branches.

It needs the package `atheris` (`requirements/fuzz.lock`), whose libFuzzer keeps mutating the inputs
that reach new branches of libs and services, and writes these to DIRECTORY. The options are those
of libFuzzer, such as `-max_total_time=60`.
"""

import hashlib
import importlib
import sys
from pathlib import Path

from tests.paths import ROOT


def main(name: str, directory: Path, *options: str) -> None:
    """Run until an option ends it, or an input is a finding."""
    atheris = importlib.import_module("atheris")
    packages = [each.name for each in ROOT.glob("libs/*")] + [
        each.name for each in ROOT.glob("services/*")
    ]
    with atheris.instrument_imports(include=packages):
        fuzzing = importlib.import_module("tests.fuzz.__main__")
    target = fuzzing.TARGETS[name]
    directory.mkdir(parents=True, exist_ok=True)
    for data in (*target.seeds, *fuzzing.kept(name)):
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)

    def run(data: bytes) -> None:
        if (problem := fuzzing.check(target, data)) is not None:
            raise AssertionError(f"{fuzzing.keep(name, data)}: {problem}")

    fuzzing.quiet()
    atheris.Setup([sys.argv[0], str(directory), *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
