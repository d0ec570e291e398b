"""Whatever is written, a configuration is loaded or refused with reasons: nothing else happens."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from certconf import ConfigError, load
from certconf.build import iter_settings as every_setting
from certconf.env_vars import PREFIX, SETTINGS
from certconf.flatten import flatten

#: Scalars with which parsers have had trouble: numbers, dates, tags, homes, URLs, bytes.
ODD = [
    *("~", "~nosuchuser", "~nosuchuser/x", "a\0b", "0x", "1_000", "1e999", "-0", ".inf", ".nan"),
    *("190:20:30", "2024-13-45", "!!bool maybe", "!!int ''", "!!float x", "!!timestamp x"),
    *("!!binary '=='", "!!set {a}", "!!python/object:os.system x", "&a [*a]", "*a", "<<: 1"),
    *("=", "[", "{", "'", "9" * 5000, "\u0663", "8080\xe9", "80\udce9", "\U0001f600", "\x85"),
    *("redis://h:\u0663/", "redis://h:80\xb2/", "redis://[::1", "redis://h/x", "rediss://h?ssl=1"),
    *("redis://u:p/w@h", "redis://a..b/", "unix://x", "unix:///x?db=a", "redis://h?db=1&db=x"),
    *("https://[", "http://h:99999/", "https://u:p@h/", "[::]:9100", "unix:\0", "::", "a..b"),
    *("10.0.0.0/99", "fe80::1%eth0", "\n", "\t", " ", "", "null", "[]", "{}", "[[[[[[]]]]]]"),
]

scalars = st.one_of(st.sampled_from(ODD), st.text(), st.integers(), st.floats(), st.booleans())
keys = st.one_of(st.sampled_from(sorted(every_setting())), st.text(max_size=20))
values = st.recursive(
    scalars | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
variables = st.one_of(
    st.sampled_from([f"{PREFIX}{name}" for name in SETTINGS]), st.text().map(PREFIX.__add__)
)


def check(file: Path, environ: dict[str, str], overrides: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        flatten(load(file, environ, overrides))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.binary())
def test_any_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    check(file, {}, {})


@fuzz
@given(key=keys, value=st.sampled_from(ODD) | st.text(max_size=40))
@example(key="port", value="!!bool maybe")
@example(key="port", value="!!timestamp x")
def test_any_text_in_a_file(file: Path, key: str, value: str) -> None:
    *sections, name = key.split(".")
    text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
    text += f"{'  ' * len(sections)}{name}: {value}\n"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    check(file, {}, {})


@fuzz
@given(tree=st.dictionaries(keys, values, max_size=4))
def test_any_tree_in_a_file(file: Path, tree: dict[str, object]) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        file.write_text(yaml.safe_dump(tree, allow_unicode=True))
        check(file, {}, {})


@fuzz
@given(
    environ=st.dictionaries(variables, st.sampled_from(ODD) | st.text(), max_size=4),
    overrides=st.dictionaries(keys, values, max_size=4),
)
@example(environ={f"{PREFIX}LOG_LISTS": "\udce9"}, overrides={})
@example(environ={f"{PREFIX}STATE_DIR": "~nosuchuser"}, overrides={})
@example(environ={f"{PREFIX}HOST": "a\0b"}, overrides={})
@example(environ={f"{PREFIX}PORT": "80\udce9"}, overrides={})
@example(environ={f"{PREFIX}REDIS_URL": "redis://h:80\xb2/"}, overrides={})
def test_any_variable_and_option(
    file: Path, environ: dict[str, str], overrides: dict[str, object]
) -> None:
    file.write_text("")
    check(file, environ, overrides)
