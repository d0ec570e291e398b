"""Every Redis key of the project, its type and its lifetime: the map of Redis for operators.

All keys begin with one prefix (`redis_prefix`, default `certstream:`). A <log id> is 64 hex digits,
or `url-<64 hex digits>` for a log whose key is not known. A <list id> is derived from the URL of a
log list and from how the list is verified: ingestors that trust different keys share no copy.

| key | type | lifetime | what |
| --- | --- | --- | --- |
| `head` | hash | permanent | see below |
| `stream:full`, `stream:lite`, `stream:domains` | stream | trimmed by age and bytes | one entry per batch, with the same entry id and order in all three: `prev` (id of the previous batch), `log`, `first`, `last` (indexes of the first and last message in the log), `n` (number of messages), `codec`, `m` (the n JSON messages joined by newlines, compressed); `at` (ms; time of publication) if the id is ahead of it; `forgot` if marks were lost before this batch; `verified` (initials of the signature of the tree head and of the inclusion: verified, unverified, failed), absent if both are unverified |
| `stream:rejected` | stream | trimmed by bytes | entries that could not be parsed: `log`, `index`, `reason`, `raw` (may be truncated), `size` (of the complete raw entry); with `last`: the skipped entries `index` to `last` |
| `windows` | hash | permanent | for each window that has marks: `<window>.at` (ms; time of the newest mark), `<window>.marks` (number of marks), `<window>.last` (entry id of the newest mark), and during removal `<window>.gone` (number of hashes removed); `cut` (ms; every certificate published since then is known, if marks were removed early) |
| `cert:<window>` | bitmap, 4 MiB and 2 KiB | `remember` after its newest mark, or less if marks exceed their share of memory; 60 days at most | filter over the marks of half an hour: one bit at the first 25 bits of each SHA-256; after it, which hashes exist |
| `cert:<window>:<bucket>` | hash | the same | dedup mark and look-up index: rest of the SHA-256 -> `<entry id>-<position>` |
| `sha1:<window>:<first byte>` | list | the same | look-up index: the next 9 bytes of a SHA-1, then `<entry id>-<position>`, for each certificate |
| `logs` | set | permanent | ids of all logs |
| `log:<log id>` | hash | permanent | see below |
| `evidence:<log id>` | stream | newest 64 | evidence of integrity violations: `kind`, `problem`, `log`, and `tree_heads` (JSON; signatures and roots in base64) |
| `lists` | set | permanent | ids of all log lists |
| `list:<list id>` | hash | permanent | the last valid copy of a log list: `body` and `signature` as served, `rank` (an older list compares as less), `digest` (SHA-256 of the body, hex), `version`, `made` (ms), `etag`, `modified`, `name`, `url`; and `checked` (ms; when the server last had nothing newer), `due` (ms; time of the next request), `failures` (in a row), `problem`, `problem_at` (ms), `failure_event` (random: the failure counted last) |
| `listed:<list id>` | hash | permanent | log id -> the newest entry of the list for a log to follow: JSON, `rank` of the list and `log` |
| `issuers:<part>` | hash | 5 to 9 days | issuer certificates named by static-ct logs: SHA-256 (32 bytes) -> DER; 16 parts by the first four bits, each with at most 256 certificates of at most 8 KiB |
| `lease:<log id>` | string | TTL of the lease | id of the worker that owns the log |
| `workers`, `gateways` | sorted set | permanent | their ids, scored by the expiry of the heartbeat (ms) |
| `worker:<id>`, `gateway:<id>` | hash | TTL of the heartbeat | state and counters of one process |
| `limit:rate:<who>` | hash | until the limit is full again | requests of one client: `tokens` in the bucket `at` (ms), `burst` used since `burst_at` (ms), requests in the window that began at `window` (ms): `now`, and in the window `before` |
| `limit:operator:<name>` | hash | until it no longer limits, a minute after a 429, half an hour after a long pause | requests to one log operator: `next` (µs: the next free slot), `refused_by` (the log whose pause ends last), `refused_until` (µs: its end), `paused_until:<api>` (µs: no request before to its logs of that API), `counts_until` (µs: the operator is taken to count requests until then), `at` (µs: when these fields were written); after a 429 also `interval` (µs between two slots), `changed` and `refused` (µs: when it changed, when the last 429 came), `answers` (the last 20) |
| `limit:gateways` | sorted set | 4 TTLs of a gateway's count | gateways that count connections, scored by the expiry of their count (ms) |
| `limit:connections` | hash | the same | connections to all gateways: address -> number; `*` -> sum |
| `limit:connections:<gateway>` | hash | the same | connections to one gateway: address -> number; `*` -> sum |

Every time is TIME of this Redis.

Fields of `head`:

- `format`: version of this contract
- `epoch`: random, created with the hash; another epoch means that Redis was emptied
- `first`: id of the first batch of the epoch; absent if an earlier release published it, or before
  the first batch
- `last`: newest entry id. It defines an order, not a time: it never decreases, and stays ahead of
  TIME after the clock was ahead
- `streams`, `remember`: the streams that ingestors write, and the lifetime of a mark (ms), both as
  in the newest configuration
- `dedup`: `issuance` if a precertificate and the certificate issued for it count as one, as in the
  newest configuration; else absent. Each message then has a second mark, of its `tbs_sha256`
- `clock`, `jumped`: TIME at a recent trimming (ms), and the time of a jump of TIME (ms), until TIME
  was steady for a minute
- `window`: effective deduplication window (ms)
- `<name>.bytes`, `<name>.entries`, `<name>.messages`: size of each stream
- `<name>.ahead`: an entry id and ms; entries up to this id whose times are ahead of TIME count as
  published at this time

Fields of `log:<log id>`:

- `start`, `next`: index of the first entry, and of the next entry to publish
- `created` (ms): when `start` was stored
- `merged`: 1 if the log was followed under two ids, of which one record was kept; else absent
- `fence`, `owner`: `<n>:<random>` of the newest lease, and its worker
- `published`, `duplicates`, `rejected`, `skipped`: counters; their sum is always next - start
- `tree_size`, `tree_timestamp` (ms), `tree_root`, `tree_signature`: the verified tree head
- `frontier`: `next` in 8 bytes, then the roots of the perfect subtrees of the first `next` entries;
  written in the same step as `next`, and valid only while both numbers are equal
- `bare_leaves`: of a hybrid log: 1 if the leaves of its tree lack the extensions of its tiles, 0 if
  they have them; absent until that is proven
- `integrity`: `proven`, `unsigned`, `unproven`, `lying` or `off`
- `alarms`, `alarms.<kind>`: number of violations, in all and by kind (docs/integrity.md)
- `alarm`, `alarm_at` (ms): the newest violation
- `stale`: number of tree heads older than an earlier one
- `below_since` (ms): start of the time in which every tree head was smaller than the verified one
- `withheld_at`: index of the entry from which on the newest violation withheld entries
- `newest`, `newest_timestamp` (ms): the largest signed tree head, verified or not
- `entry_timestamp` (ms): when the log accepted the last entry before `next` that could be read
- `barren`: entries rejected since the last entry that was not rejected
- `limited_by`: the setting that keeps the log behind its tree head; absent if none does
- `page`: entries of a full answer, as far as the log has shown it; its next owner begins with it
- `gaps`: seconds between the newest tree heads of different size, oldest first, separated by
  blanks, if they are several poll intervals long; for its next owner, too
- `skip`, `skip_at` (ms): the range skipped last, and the reason
- `circuit`: closed, half-open or open
- `failures`, `errors`: failures in a row, and in all
- `retry_at` (ms): no request before this time; `retry_pause` (ms): how far ahead that was when it was stored
- `excluded`: 1 if the configuration of the worker that described the log last excludes it
- `name`, `url`, `operator`, `kind`, `state`, `last_error`, `last_error_at`, `last_success` (ms):
  description of the log
- `listed_at`: scheme and authority of the URL of the log list that names the log, `file` for a file,
  `configured` for a configured log; absent if an earlier release described the log
- `unsigned_list`: name of the unsigned log list that states its operator; empty without one
- `error_event`, `alarm_event`, `skip_event`: random names of what was counted last; a call that is
  repeated because its reply was lost counts nothing twice
- `retiring`, `retired_why`: JSON of a retirement (`by`, `why`, `since`, `at`, and `log`: everything
  needed to drain the log), and its reason
- `retired` (ms): the log is drained; no worker gets its lease. The hash expires 30 days later, unless
  `retiring` is of a command
- `renamed`: the current id of the log; the only field under an earlier id

In `worker:<id>`, `loads` determines the assignment of logs: JSON, log id -> milliseconds of CPU a
second. A worker whose `knows` is 0 has not found any logs yet.

<name> is the name of an operator in lower case, or the host of a log whose operator is not known;
for a log that only an unsigned list names, followed by `unsigned list` and the name of that list.
<who> is `token:<name>` for a client with a token, else `address:<address>`. An <address> is an IPv4
address, or the /64 network of an IPv6 address, which is what one site has.

A mark takes about 60 bytes, because Redis stores small hashes as one block of memory
(`hash-max-listpack-entries`, 512 in Redis 6.2). Its place in the SHA-1 index takes 30 bytes; that
index is searched rarely, so lists suffice. The marks of half an hour are spread over 16384
hashes by the first 14 bits of the digest: 77 in each at 700 certificates a second. A hash expires
as a whole. A look-up queries each window that `remember` covers. It reads the filter first, one
command for 256 digests; most digests are in none. At 700 certificates a second the filter has about
4 % false positives, which the hash resolves.
"""  # noqa: E501  (a table)
# ruff: noqa: D102  (the table describes each key)

from typing import Literal

FORMAT = 1
"""Version of this contract, in `head.format`."""

STREAMS = ("full", "lite", "domains")
"""Names of the streams, in the order in which they are written."""

DedupBy = Literal["certificate", "issuance"]
"""What is published once: each certificate, or a precertificate and its certificate together."""

Kind = Literal["worker", "gateway"]
"""The processes that send heartbeats."""

WINDOW_MS = 30 * 60 * 1000
"""Length of a window of marks. Part of the contract; lua/marks.lua has it too."""


DEFAULT_REMEMBER_MS = 60 * 60 * 1000
"""Lifetime of a dedup mark without a configuration."""


def operator_key(name: str) -> str:
    """Return an operator's name without case, punctuation and repeated blanks."""
    kept = "".join(letter for letter in name.casefold() if letter.isalnum() or letter.isspace())
    return " ".join(kept.split()) or name.casefold()


class Keys:
    """Names of the keys under one prefix."""

    def __init__(self, prefix: str = "certstream:") -> None:
        self.prefix = prefix
        self.head = f"{prefix}head"
        self.rejected = self.stream("rejected")
        self.marks = f"{prefix}cert:"  # prefix of the keys of the SHA-256 marks
        self.sha1_marks = f"{prefix}sha1:"  # prefix of the keys of the SHA-1 index
        self.windows = f"{prefix}windows"
        self.logs = f"{prefix}logs"
        self.log_lists = f"{prefix}lists"
        self.limit_gateways = f"{prefix}limit:gateways"
        self.connections = f"{prefix}limit:connections"

    def stream(self, name: str) -> str:
        return f"{self.prefix}stream:{name}"

    def log(self, log_id: str) -> str:
        return f"{self.prefix}log:{log_id}"

    def evidence(self, log_id: str) -> str:
        return f"{self.prefix}evidence:{log_id}"

    def lease(self, log_id: str) -> str:
        return f"{self.prefix}lease:{log_id}"

    def log_list(self, list_id: str) -> str:
        return f"{self.prefix}list:{list_id}"

    def listed_logs(self, list_id: str) -> str:
        return f"{self.prefix}listed:{list_id}"

    def issuers(self, part: int) -> str:
        return f"{self.prefix}issuers:{part:x}"

    def members(self, kind: Kind) -> str:
        """Return the key of the ids of all workers, or gateways."""
        return f"{self.prefix}{kind}s"

    def member(self, kind: Kind, member_id: str) -> str:
        return f"{self.prefix}{kind}:{member_id}"

    def rate(self, client: str) -> str:
        return f"{self.prefix}limit:rate:{client}"

    def operator(self, name: str) -> str:
        return f"{self.prefix}limit:operator:{operator_key(name)}"
