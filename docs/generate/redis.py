"""Every Redis key as certbus describes it, and a command that reads it."""

import re
from collections.abc import Mapping
from typing import Final

import certbus.keys
from docs.generate.tables import table

#: Variables of the examples.
PREPARE: Final = """\
LOG=$(redis-cli SRANDMEMBER certstream:logs)
LIST=$(redis-cli SRANDMEMBER certstream:lists)
OPERATOR=$(redis-cli HGET certstream:log:$LOG operator | tr A-Z a-z | tr -d '[:punct:]' | tr -s ' ')
INGESTOR=$(redis-cli ZRANGE certstream:workers 0 0)
GATEWAY=$(redis-cli ZRANGE certstream:gateways 0 0)
COUNTING=$(redis-cli ZRANGE certstream:limit:gateways 0 0)
ISSUERS=$(redis-cli --scan --pattern 'certstream:issuers:*' | head -n 1)
WINDOW=$(( $(date +%s) / 1800 ))
CERTIFICATE=$(certstream-server tail --limit 1 --format '{sha256} {sha1}')
SHA256=${CERTIFICATE% *} SHA1=${CERTIFICATE#* }
"""

#: Key, as in the table of keys.py -> a line of bash that reads it.
EXAMPLES: Final[Mapping[str, str]] = {
    "head": "redis-cli HGETALL certstream:head",
    "stream:full": "redis-cli XLEN certstream:stream:full",
    "stream:lite": "redis-cli XREVRANGE certstream:stream:lite + - COUNT 1",
    "stream:domains": "redis-cli XINFO STREAM certstream:stream:domains",
    "stream:rejected": "redis-cli XREVRANGE certstream:stream:rejected + - COUNT 1",
    "windows": "redis-cli HGETALL certstream:windows",
    "cert:<window>": "redis-cli BITCOUNT certstream:cert:$WINDOW",
    "cert:<window>:<bucket>": (
        "redis-cli --no-raw HGETALL certstream:cert:$WINDOW:$(( 0x${SHA256:0:4} >> 2 ))"
    ),
    "sha1:<window>:<first byte>": (
        "redis-cli --no-raw LRANGE certstream:sha1:$WINDOW:$(( 0x${SHA1:0:2} )) -2 -1"
    ),
    "logs": "redis-cli SMEMBERS certstream:logs",
    "log:<log id>": "redis-cli HMGET certstream:log:$LOG name next tree_size owner integrity",
    "evidence:<log id>": "redis-cli XREVRANGE certstream:evidence:$LOG + - COUNT 1",
    "lists": "redis-cli SMEMBERS certstream:lists",
    "list:<list id>": "redis-cli HMGET certstream:list:$LIST name version made checked problem",
    "listed:<list id>": "redis-cli HKEYS certstream:listed:$LIST",
    "issuers:<part>": "redis-cli HLEN $ISSUERS",
    "lease:<log id>": "redis-cli GET certstream:lease:$LOG",
    "workers": "redis-cli ZRANGE certstream:workers 0 -1 WITHSCORES",
    "gateways": "redis-cli ZRANGE certstream:gateways 0 -1 WITHSCORES",
    "worker:<id>": "redis-cli HGETALL certstream:worker:$INGESTOR",
    "gateway:<id>": "redis-cli HGETALL certstream:gateway:$GATEWAY",
    "limit:rate:<who>": "redis-cli HGETALL certstream:limit:rate:address:127.0.0.1",
    "limit:operator:<name>": 'redis-cli HGETALL "certstream:limit:operator:$OPERATOR"',
    "limit:gateways": "redis-cli ZRANGE certstream:limit:gateways 0 -1 WITHSCORES",
    "limit:connections": "redis-cli HGETALL certstream:limit:connections",
    "limit:connections:<gateway>": "redis-cli HGETALL certstream:limit:connections:$COUNTING",
}


def described() -> list[str]:
    """Return the keys in the table of keys.py."""
    rows = re.findall(r"^\| (`.*?`) \|", _text(), re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`(.*?)`", row)]


def keys() -> str:
    """Return the description in keys.py without its first line."""
    text = _text().partition("\n")[2].strip()
    # Outside of code, Markdown would take a placeholder for HTML.
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "\\<") for part in parts)


def examples() -> str:
    """Return one command per key, in the order of the table.

    Raises:
        ValueError: a key has no command.
    """
    if missing := [key for key in described() if key not in EXAMPLES]:
        raise ValueError(f"no example of reading {', '.join(missing)}: add it to EXAMPLES")
    rows = ((f"`{key}`", f"`{EXAMPLES[key]}`") for key in described())
    return f"```bash\n{PREPARE}```\n\n{table(['key', 'command'], rows)}"


def _text() -> str:
    return certbus.keys.__doc__ or ""
