"""What applies at once, and what waits for a restart."""

import asyncio
from pathlib import Path

import pytest

from certconf import Config, ConfigHolder, Secret, load
from certconf.build import iter_settings
from certconf.reload_policy import POLICIES, changed_settings, diff, policy_of


def test_the_table_has_every_setting_once_for_each_service() -> None:
    for setting in iter_settings():
        use = policy_of(setting)
        assert use.live or use.restart, setting
        assert not set(use.live) & set(use.restart), setting
    unknown = [
        key for key in POLICIES if not any(f"{s}.".startswith(f"{key}.") for s in iter_settings())
    ]
    assert unknown == []


def test_what_differs_is_told_by_its_dotted_name() -> None:
    other = load(
        None,
        {},
        {"port": 1, "streams.full": False, "auth.tokens": ["a"], "retention.lite.max_bytes": 1},
    )
    assert set(changed_settings(load(None, {}), other)) == {
        "port",
        "streams.full",
        "auth.tokens",
        "retention.lite.max_bytes",
    }
    assert list(changed_settings(other, other)) == []


def test_what_waits_keeps_its_value_and_the_rest_applies() -> None:
    running = load(None, {})
    wanted = load(
        None,
        {},
        {
            "port": 1,
            "connection_limit.max_connections": 5,
            "connection_limit.forget_after_secs": 3,
            "auth.tokens": ["a"],
            "ct_log.batch_size": 7,
            "ct_log.static_ct_enabled": False,
        },
    )
    gateway = diff("gateway", running, wanted)
    assert set(gateway.waiting) == {"port", "connection_limit.forget_after_secs"}
    assert set(gateway.applied) == {"connection_limit.max_connections", "auth.tokens"}
    assert gateway.config.port == running.port
    assert gateway.config.connection_limit.max_connections == 5
    assert gateway.config.connection_limit.forget_after_secs == 15
    assert gateway.config.auth.tokens == (Secret("a"),)
    ingestor = diff("ingestor", running, wanted)
    assert (ingestor.applied, ingestor.waiting) == (
        ("ct_log.static_ct_enabled",),
        ("ct_log.batch_size",),
    )
    assert diff("gateway", gateway.config, wanted).waiting == gateway.waiting, "reported each time"
    assert diff("gateway", gateway.config, running).waiting == (), "taken back"


async def test_the_newest_configuration_is_given_to_whoever_waits() -> None:
    first, second, third = Config(port=1), Config(port=2), Config(port=3)
    present = ConfigHolder(first)
    waiting = asyncio.create_task(present.wait_for_change(than=first))
    await asyncio.sleep(0)
    present.replace(second)
    present.replace(third)
    assert await waiting is third
    assert await present.wait_for_change(than=second) is third
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await present.wait_for_change(than=third)


def test_a_new_password_of_redis_needs_no_restart(tmp_path: Path) -> None:
    file = tmp_path / "password"
    given = {"redis_password_file": str(file)}
    file.write_text("first")
    running = load(None, {}, {**given, "redis_url": "redis://me@h/0"})
    file.write_text("second")
    change = diff("gateway", running, load(None, {}, {**given, "redis_url": "redis://me@h/0"}))
    assert change.waiting == ()
    own = {**given, "redis_url": "redis://me:mine@h/0"}
    assert diff("gateway", running, load(None, {}, own)).waiting == ("redis_url",)
    moved = diff("gateway", running, load(None, {}, {**given, "redis_url": "redis://me@g/0"}))
    assert moved.waiting == ("redis_url",)


def test_new_passwords_of_redis_and_sentinels_need_no_restart(tmp_path: Path) -> None:
    files = {
        name: tmp_path / name for name in ("redis_password_file", "redis_sentinel_password_file")
    }

    def loaded(password: str, url: str) -> Config:
        for file in files.values():
            file.write_text(password)
        return load(None, {}, {"redis_url": url, **{k: str(v) for k, v in files.items()}})

    url = "redis+sentinel://me@a,b/name/0?role=primary"
    running = loaded("first", url)
    assert diff("gateway", running, loaded("second", url)).waiting == ()
    for other in (f"{url}&sentinel_username=you", f"{url}&sentinel_password=mine", url + "&db=1"):
        assert diff("gateway", running, loaded("second", other)).waiting == ("redis_url",)
