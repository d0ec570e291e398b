"""Every way to be wrong: messages name the key, file and line, what was given, what may be."""

import re
from pathlib import Path

import pytest

from certconf import ConfigError, load


def problems(
    path: Path,
    text: str | bytes = "",
    environ: dict[str, str] | None = None,
    overrides: dict[str, object] | None = None,
) -> list[str]:
    file = path / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ or {}, overrides)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return [str(problem).removeprefix(f"{path}/") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\nport: 99999", "config.yaml:2: port: 99999 is not a whole number from 1 to 65535"),
        ("port: eighty", "config.yaml:1: port: 'eighty' is not a whole number from 1 to 65535"),
        ("port: 80.5", "config.yaml:1: port: 80.5 is not a whole number from 1 to 65535"),
        ("port:", "config.yaml:1: port: an empty value is not a whole number from 1 to 65535"),
        (
            "auth: {header_name: X Key}",
            "config.yaml:1: auth.header_name: 'X Key' is not a header's name, as X-Token",
        ),
        ("port: [80]", "config.yaml:1: port: a list is not a whole number from 1 to 65535"),
        ("prot: 80", "config.yaml:1: prot: no such setting: did you mean port?"),
        (
            "ct_log:\n  batch_sise: 3",
            "config.yaml:2: ct_log.batch_sise: no such setting: did you mean batch_size?",
        ),
        (
            "ct_log: {batch_size: 0}",
            "config.yaml:1: ct_log.batch_size: 0 is not a whole number of at least 1",
        ),
        (
            "ct_log:\n  ttl_secs: 3",
            "config.yaml:2: ct_log.ttl_secs: no such setting here: did you mean dedup.ttl_secs?",
        ),
        (
            "streams: {zzzzzz: 1}",
            "streams.zzzzzz: no such setting here: expected chain_der, domains_only, full, lite",
        ),
        (
            "notices: [x]",
            "config.yaml:1: notices: no such setting here: expected access_log, admin, allow, auth",
        ),
        (
            "webserver: {listen_port: 80}",
            "config.yaml:1: webserver: no such setting here, but a section of certstream-server-go",
        ),
        ("streams: false", "config.yaml:1: streams: false is not a section with settings of its"),
        ("streams: {full: maybe}", "config.yaml:1: streams.full: 'maybe' is not true or false"),
        (
            "ct_log: {request_timeout_secs: .inf}",
            "config.yaml:1: ct_log.request_timeout_secs: .inf is not a number above 0",
        ),
        (
            "ct_log: {operator_rate_limits: {digicert: -1}}",
            "config.yaml:1: ct_log.operator_rate_limits.digicert: -1 is not a whole number of at",
        ),
        ("ct_log: {operator_rate_limits: 3}", "operator_rate_limits: 3 is not names with values"),
        (
            "ct_log: {integrity: loose}",
            "ct_log.integrity: 'loose' is not one of enforce, warn, off",
        ),
        ("log_level: loud", "log_level: 'loud' is not one of trace, debug, info, warn, warning,"),
        ("custom_logs: {name: x}", "config.yaml:1: custom_logs: a section is not a list"),
        (
            "custom_logs:\n- {name: a, url: 'ftp://x'}",
            "config.yaml:2: custom_logs[0].url: 'ftp://x' is not an http:// or https:// URL",
        ),
        (
            "static_logs:\n- name: a\n  url: https://a.example/\n- name: b",
            "config.yaml:4: static_logs[1]: url is missing: an http:// or https:// URL",
        ),
        (
            "custom_logs: [{name: a, url: 'https://a', expected_log_id: abc}]",
            "custom_logs[0].expected_log_id: 'abc' is not a log id: the SHA-256 of the log's key",
        ),
        (
            "custom_logs: [{name: a, url: 'https://a', key: '!'}]",
            "custom_logs[0].key: '!' is not a public key: the base64 of its DER",
        ),
        ("log_lists:\n- url: x\n", "config.yaml:2: log_lists[0]: needs signature_url and key, or"),
        (
            "log_lists:\n- {url: x, unsigned: true, key: y}\n",
            "config.yaml:2: log_lists[0]: unsigned: true contradicts its signature",
        ),
        (
            "log_lists:\n- {url: 'http://lists.example/', unsigned: true}\n",
            "config.yaml:2: log_lists[0]: is unsigned, so it needs an https:// URL",
        ),
        (
            "log_lists:\n- {url: 'http://[lists/', unsigned: true}\n",
            "config.yaml:2: log_lists[0]: url is neither a URL nor a file",
        ),
        (
            "trusted_proxies: [10.0.0.0/8, 10.0.0.0/33]",
            "config.yaml:1: trusted_proxies[1]: '10.0.0.0/33' is not an address or a network: ",
        ),
        (
            "filters:\n  brand:\n  - contains:acme\n  - contains:acme lik:acme",
            "config.yaml:4: filters.brand[1]: 'lik:acme' at character 14: unknown key 'lik'; known",
        ),
        (
            "auth: {holders: [{name: a, token: t, filter: brand}]}",
            "config.yaml:1: auth.holders[0].filter: no filter has the name 'brand'",
        ),
        (
            "filters: {brand: [" + ",".join(f"'regex:abc{n}'" for n in range(1001)) + "]}",
            "config.yaml:1: filters.brand: 'regex:abc1000' at character 0: more than 1000 regexes",
        ),
        ("filters: {brand: []}", "config.yaml:1: filters.brand: a filter needs a line"),
        ("filters: {brand: contains:acme}", "filters.brand: 'contains:acme' is not a list"),
        ("allow: {api: [proxy.example]}", "allow.api[0]: 'proxy.example' is not an address or"),
        (
            "auth: {holders: [{name: a, token: t, tier: gold}]}",
            "auth.holders[0].tier: 'gold' is not one of free, standard, premium",
        ),
        (
            "auth: {holders: [{name: a}]}",
            "config.yaml:1: auth.holders[0]: needs either token or sha256",
        ),
        (
            "auth: {holders: [{name: a, sha256: abc}]}",
            "auth.holders[0].sha256: 'abc' is not a SHA-256 in hex: 64 digits",
        ),
        (
            "auth: {holders: [{name: a, token: t, expires: 2027-01-31}]}",
            "auth.holders[0].expires: 2027-01-31 is not a date and time with its zone",
        ),
        (
            "auth: {holders: [{name: a, token: t, streams: [all]}]}",
            "auth.holders[0].streams[0]: 'all' is not one of full, lite, domains",
        ),
        ("tls_key: k.pem", "config.yaml:1: tls_key: needs tls_cert as well"),
        (
            "ct_log: {retry_initial_delay_ms: 9, retry_max_delay_ms: 8}",
            "config.yaml:1: ct_log.retry_initial_delay_ms: is above retry_max_delay_ms, 8",
        ),
        ("host: ''", "config.yaml:1: host: '' is not text"),
        ("state_dir: ''", "config.yaml:1: state_dir: '' is not a path"),
        ("port: 80\nhost: a\nport: 81", "config.yaml:3: port: is given twice: first in line 1"),
        (
            "redis_password_file: /nowhere",
            "redis_password_file: '/nowhere' cannot be read: No such",
        ),
        ("a: [1", "config.yaml:1: is not YAML: while parsing a flow sequence: expected ',' or ']'"),
        ("a: b: c", "config.yaml:1: is not YAML: mapping values are not allowed here"),
        ("- a", "config.yaml:1: is not a mapping of settings to values"),
        ("port: 1\n---\nport: 2", "config.yaml:2: is not YAML: expected a single document"),
        ("port: *nothing", "config.yaml:1: is not YAML: found undefined alias 'nothing'"),
        (b"port: \xff\xfe", "config.yaml: is not YAML:"),
        (b"\x00\x01", "config.yaml: is not YAML:"),
        ("[" * 5000, "config.yaml: is nested too deeply"),
        ("a: " + "{a: " * 65 + "}" * 65, "config.yaml: is nested too deeply"),
        ("a: " + "[" * 50 + "]" * 50, "config.yaml:1: is too large once its aliases are unfolded"),
        ("&a [*a]", "config.yaml:1: is too large once its aliases are unfolded"),
        ("#" * 300_000, "config.yaml: is larger than 262144 bytes"),
        ("host: !!python/object/apply:os.system [x]", "config.yaml:1: host: a list is not text"),
    ],
)
def test_file(tmp_path: Path, text: str | bytes, problem: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert problem in found[0]


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    found = problems(tmp_path, "\n".join(lines))
    assert re.fullmatch(r"config.yaml:\d: is too large once its aliases are unfolded", found[0])


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "prot: 1\nct_log:\n  batch_size: 0\ncustom_logs:\n- {nme: x}\ntls_cert: a\n",
        {"CERTSTREAM_PORT": "http", "CERTSTREAM_LOG_LISTS": "[{url: a"},
        {"dedup.ttl_secs": "-1", "strems.full": False},
    )
    assert [problem.split(": ")[:2] for problem in found] == [
        ["CERTSTREAM_LOG_LISTS:1", "is not YAML"],
        ["config.yaml:1", "prot"],
        ["config.yaml:3", "ct_log.batch_size"],
        ["config.yaml:5", "custom_logs[0].nme"],
        ["config.yaml:5", "custom_logs[0]"],
        ["config.yaml:5", "custom_logs[0]"],
        ["CERTSTREAM_PORT", "port"],
        ["command line", "dedup.ttl_secs"],
        ["command line", "strems"],
        ["config.yaml:6", "tls_cert"],
    ]


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    for path, environ in [
        (tmp_path / "no.yaml", {}),
        (None, {"CERTSTREAM_CONFIG": str(tmp_path / "no.yaml")}),
    ]:
        with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read: No such file"):
            load(path, environ)


@pytest.mark.parametrize(
    "text",
    [
        "redis_url: http://user:hunter2@host",
        "redis_url: unix://hunter2",
        "redis_url: redis://:hunter2@/0",
        "redis_url: redis://:hunter2@host:port/0",
        "redis_url: redis+sentinel://:hunter2@a,b",
        "redis_url: redis+sentinel://:hunter2@a:x,b/service",
        "redis_url: redis+sentinel://:hunter2@a,,b/service/0",
        "redis_url: redis+sentinel://:hunter2@a/service/0?role=hunter2",
        "redis_url: unix+sentinel://:hunter2@a/service",
        "redis_url: {a: hunter2}",
        "auth: {tokens: [{hunter2: x}]}",
        "auth: {tokens: hunter2}",
        "custom_logs: [{name: a, url: 'https://user:hunter2@a.example'}]",
        "static_logs: [{name: a, url: 'https://hunter2@a.example'}]",
        "log_lists: [{url: 'https://:hunter2@a.example/l.json', unsigned: true}]",
        "auth: {holders: [{name: a, token: [hunter2]}]}",
    ],
)
def test_secrets_are_not_repeated(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, text)
    assert found
    assert "hunter2" not in "".join(found)
