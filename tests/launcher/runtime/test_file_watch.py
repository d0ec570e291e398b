"""Changes of a file are noticed, however they are made."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from launcher.runtime import file_watch
from tests.waiting import until


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[list[str]]:
    """What the file held at each change that was noticed."""
    found: list[str] = []
    task = asyncio.create_task(
        file_watch.watch(path, lambda: found.append(path.read_text() if path.is_file() else ""))
    )
    await asyncio.sleep(0)  # it has read the first state
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def renamed_over(path: Path, text: str) -> None:
    new = path.with_name(".new")
    new.write_text(text)
    new.replace(path)


def moved_away_first(path: Path, text: str) -> None:
    """As editors do that keep the old file."""
    path.replace(path.with_name("file~"))
    path.write_text(text)


@pytest.mark.parametrize("change", [in_place, renamed_over, moved_away_first])
async def test_however_it_is_written(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("first")
    async with watched(path) as found:
        for text in ("second", "the third"):
            change(path, text)
            await until(lambda: text in found, text)  # noqa: B023


async def test_another_mode_is_a_change(tmp_path: Path) -> None:
    """A file that could not be read may be readable now."""
    path = tmp_path / "config.yaml"
    path.write_text("first")
    path.chmod(0o600)
    async with watched(path) as found:
        path.chmod(0o640)
        await until(lambda: "first" in found)


async def test_a_config_map(tmp_path: Path) -> None:
    """Kubernetes: config.yaml -> ..data/config.yaml, ..data -> a directory for each version."""

    def publish(version: str) -> None:
        directory = tmp_path / f"..{version}"
        directory.mkdir()
        (directory / "config.yaml").write_text(version)
        link = tmp_path / "..data_tmp"
        link.symlink_to(directory.name)
        link.replace(tmp_path / "..data")

    publish("first")
    path = tmp_path / "config.yaml"
    path.symlink_to("..data/config.yaml")
    async with watched(path) as found:
        for version in ("second", "third"):
            publish(version)
            await until(lambda: version in found, version)  # noqa: B023


async def test_a_link_to_a_file_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.yaml").write_text("first")
    path = tmp_path / "config.yaml"
    path.symlink_to(elsewhere / "real.yaml")
    async with watched(path) as found:
        renamed_over(elsewhere / "real.yaml", "second")
        await until(lambda: "second" in found)


async def test_a_directory_and_a_file_that_comes_later(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    async with watched(directory) as found, watched(directory / "one") as later:
        directory.mkdir()
        (directory / "one").write_text("first")
        await until(lambda: found and "first" in later)
        seen = len(found)
        (directory / "two").write_text("second")
        await until(lambda: len(found) > seen)


async def test_without_events_it_looks_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_watches_left(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(file_watch, "_CHECK_INTERVAL_SECS", 0.05)
    monkeypatch.setattr(file_watch, "awatch", no_watches_left)
    path = tmp_path / "config.yaml"
    path.write_text("first")
    async with watched(path) as found:
        path.write_text("second")
        await until(lambda: "second" in found)
