"""Every Redis key of the project, its type and its lifetime: the operator's map of Redis.

All keys begin with one prefix, `certstream:` unless configured. <log id> is 64 hex digits (or
`url-<64 hex digits>` for a log whose key is not known). <list id> is made of a log list's URL and
of how it is to be verified, so that ingestors which trust different keys share no copy.

| key | type | lifetime | what |
| --- | --- | --- | --- |
| `head` | hash | for ever | see below |
| `stream:full`, `stream:lite`, `stream:domains` | stream | trimmed by age and bytes | one entry a batch, the same entry id and the same order in all three: `prev` (id of the batch before), `log`, `first`, `last` (indexes of the first and last message in the log), `n` (messages), `codec`, `m` (the n JSON messages joined by newlines, packed); `at` (ms; when it was made) if its id is ahead of that; `forgot` if marks were lost before it |
| `stream:rejected` | stream | trimmed by bytes | entries that could not be read: `log`, `index`, `reason`, `raw` (may be cut short), `size` (of raw before the cut); with `last`, entries `index` to `last` that were skipped |
| `windows` | hash | for ever | of each window that has marks: `<window>.at` (ms; when the newest mark was made), `<window>.marks` (how many), `<window>.last` (entry id of the newest), and while it is removed `<window>.gone` (hashes that are gone); `cut` (ms; since when every certificate is known, where marks went early) |
| `cert:<window>` | bitmap, 4 MiB and 2 KiB | `remember` after its newest mark, or as long as the share of memory allows; at the latest 60 days later | filter over the marks of half an hour: bit at the first 25 bits of each SHA-256; behind it, which hashes there are |
| `cert:<window>:<bucket>` | hash | the same | dedup mark and look-up index: rest of the SHA-256 -> `<entry id>-<position>` |
| `sha1:<window>:<first byte>` | list | the same | look-up index: the next 9 bytes of a SHA-1, then `<entry id>-<position>`, for each certificate |
| `logs` | set | for ever | ids of all logs |
| `log:<log id>` | hash | for ever | see below |
| `evidence:<log id>` | stream | newest 64 | where the log contradicted itself: `kind`, `problem`, `log`, and `tree_heads` (JSON; signatures and roots in base64) |
| `lists` | set | for ever | ids of all log lists |
| `list:<list id>` | hash | for ever | the last good copy of a log list: `body` and `signature` as served, `rank` (older ones compare as less), `digest` (SHA-256 of the body, hex), `version`, `made` (ms), `etag`, `modified`, `name`, `url`; and `checked` (ms; when its server had nothing newer), `due` (ms; when to ask again), `failures` (in a row), `problem`, `problem_at` (ms) |
| `listed:<list id>` | hash | for ever | log id -> what the list last said of a log that it wants followed: JSON, `rank` of the list and `log` |
| `issuers:<part>` | hash | 5 to 9 days | issuer certificates that logs of the static-ct API name: SHA-256 (32 bytes) -> DER; 16 parts by its first four bits, of at most 256 of at most 8 KiB |
| `lease:<log id>` | string | the lease's TTL | id of the worker that owns the log |
| `workers`, `gateways` | sorted set | for ever | their ids, scored by when the heartbeat expires (ms) |
| `worker:<id>`, `gateway:<id>` | hash | heartbeat's TTL | what it is doing |
| `limit:rate:<who>` | hash | until it says nothing any more | what someone has asked: `tokens` in the bucket `at` (ms), `burst` used since `burst_at` (ms), requests in the window that began at `window` (ms): `now`, and in the one `before` |
| `limit:operator:<name>` | hash | until it says nothing any more | requests to one operator of logs: `next` (µs: the next free turn), `refused_by` (the last log that answered 429), `refused_until` (µs: not to be asked before), `at` (µs: when these were written) |
| `limit:gateways` | sorted set | 4 TTLs of a gateway's count | gateways that count connections, scored by when they are given up (ms) |
| `limit:connections` | hash | the same | connections to all gateways: address -> number; `*` -> all |
| `limit:connections:<gateway>` | hash | the same | connections to one gateway, likewise |

`head`: `format` (of this contract), `epoch` (random, made with the hash: another epoch means that
Redis was emptied), `first` (id of the epoch's first batch; absent if an earlier release published
it, or nothing was published yet), `last` (newest entry id), `streams` (names of those being written, as the
newest configuration has it), `remember` (ms that a mark lives, likewise), `clock` (ms; TIME at a
recent trimming), `jumped` (ms; when TIME was seen to jump, until it has held for a minute), `window` (ms for which every
published certificate is known in effect), and for each stream `<name>.bytes`, `<name>.entries`, `<name>.messages`: what it holds, and `<name>.ahead` (an entry id
and ms: entries up to that id whose times are ahead of TIME count as made then).

Every time is TIME of this Redis. `last` is an order, not a time: it never becomes less, and is ahead of
TIME for as long as the clock was once.

`log:<log id>`: `start`, `next` (index of the next entry to publish), `fence` (`<n>:<random>` of
the newest lease), `owner` (its worker), the counters `published`, `duplicates`, `rejected`,
`skipped`, of which the sum is always next - start, `tree_size`, `tree_timestamp` (ms),
`tree_root`, `tree_signature`, `frontier` (the roots of the perfect subtrees that the first `next`
entries divide into, after their number in 8 bytes: written in the same step as `next`, and good only
while that number is `next`), `integrity` (proven, unsigned, unproven, lying or off), `alarms` (how
many lies were found), `alarms.<kind>` (how many of a kind; docs/integrity.md names them), `alarm`,
`alarm_at` (ms; the newest), `stale` (how many tree heads were older
than one before), `below_since` (ms; since when they are all smaller than the one followed), `newest` (size of the newest tree head shown and signed, proven or not), `barren` (entries rejected since the last that was not), `skip` (the range
that was skipped last, and why), `skip_at` (ms), `circuit` (closed, half-open or open), `failures` (in a row), `errors` (in all),
`retry_at` (ms; not asked before), and what the directory says of it: `name`, `url`, `operator`,
`kind`, `state`, `last_error`, `last_error_at`, `last_success` (ms). `error_event`, `alarm_event` and
`skip_event` are random: what was counted last, so that a call that is repeated because its reply was
lost counts nothing twice. Of a log that is over:
`retiring` (JSON: `by`, `why`, `since`, `at`, and `log`, all it takes to drain it), `retired_why`, and
once it is drained `retired` (ms): then nobody gets its lease, and the hash expires 30 days later. Under
an id that turned out not to be the best one, nothing but `renamed`: the log's id.

Of `worker:<id>`, `loads` decides who follows which log: JSON, log id -> milliseconds of CPU a second;
whose `knows` is 0 has found no logs yet.

<name> is an operator's in lower case, or the host of a log whose operator is not known. <who> is `token:<name>` for who has a token, else `address:<address>`. An <address> is an IPv4
address, or the /64 network of an IPv6 address: that is what one site has.

A mark costs about 60 bytes, because small hashes are stored as one flat piece of memory
(`hash-max-listpack-entries`, 512 in Redis 6.2), and its place in the SHA-1 index 30: that is
searched rarely, so long lists are good enough. The marks of half an hour are
spread over 16384 hashes by the first 14 bits of the digest, 77 in each at 700 certificates a
second. A whole hash expires at once. A look-up asks each window that `remember` reaches back to,
first its filter: one command for 256 digests, and most are in none. At 700 certificates a second
a filter is wrong about 4 % of what is not there; then the hash tells.
"""  # noqa: E501  (a table)
# ruff: noqa: D102  (the table says what each is)

import msgspec

FORMAT = 1
"""Version of this contract, in `head.format`."""

STREAMS = ("full", "lite", "domains")
"""Names of the streams, in the order in which they are written."""

WINDOW_MS = 30 * 60 * 1000
"""Length of a window of marks. Part of the contract; lua/marks.lua has it too."""


DEFAULT_REMEMBER_MS = 60 * 60 * 1000
"""How long a published certificate is known, if no configuration says so."""


class Keys(msgspec.Struct, frozen=True):
    """Names of the keys under one prefix."""

    prefix: str = "certstream:"

    @property
    def head(self) -> str:
        return f"{self.prefix}head"

    def stream(self, name: str) -> str:
        return f"{self.prefix}stream:{name}"

    @property
    def rejected(self) -> str:
        return self.stream("rejected")

    @property
    def marks(self) -> str:
        """What the keys of the SHA-256 marks begin with."""
        return f"{self.prefix}cert:"

    @property
    def sha1_marks(self) -> str:
        """What the keys of the SHA-1 index begin with."""
        return f"{self.prefix}sha1:"

    @property
    def windows(self) -> str:
        return f"{self.prefix}windows"

    @property
    def logs(self) -> str:
        return f"{self.prefix}logs"

    def log(self, log_id: str) -> str:
        return f"{self.prefix}log:{log_id}"

    def evidence(self, log_id: str) -> str:
        return f"{self.prefix}evidence:{log_id}"

    @property
    def log_lists(self) -> str:
        return f"{self.prefix}lists"

    def log_list(self, list_id: str) -> str:
        return f"{self.prefix}list:{list_id}"

    def listed_logs(self, list_id: str) -> str:
        return f"{self.prefix}listed:{list_id}"

    def issuers(self, part: int) -> str:
        return f"{self.prefix}issuers:{part:x}"

    def lease(self, log_id: str) -> str:
        return f"{self.prefix}lease:{log_id}"

    @property
    def workers(self) -> str:
        return f"{self.prefix}workers"

    def worker(self, worker_id: str) -> str:
        return f"{self.prefix}worker:{worker_id}"

    @property
    def gateways(self) -> str:
        return f"{self.prefix}gateways"

    def gateway(self, gateway_id: str) -> str:
        return f"{self.prefix}gateway:{gateway_id}"

    def rate(self, who: str) -> str:
        return f"{self.prefix}limit:rate:{who}"

    def operator(self, name: str) -> str:
        return f"{self.prefix}limit:operator:{name.casefold()}"

    @property
    def limit_gateways(self) -> str:
        return f"{self.prefix}limit:gateways"

    @property
    def connections(self) -> str:
        return f"{self.prefix}limit:connections"
