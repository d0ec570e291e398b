"""Simulated Certificate Transparency logs by seed, and the oracle that knows their truth.

A world is a function of its specification and the time. The seed determines which certificate
enters which log at which millisecond, so a world that is killed and started again serves the same
logs, and a test can compute what must have arrived.

    spec, profile           the specification of a world and of the behaviour of one log
    seeded                  the random bytes that the seed determines
    schedule                which certificate enters which log, and when
    pki                     certificate number n, and who issued it
    ctlog                   key, Merkle tree, tree heads and endpoints of one log, of either API
    world                   all logs of one specification, advanced by the clock
    api                     paths, log list, control API, request counts
    http_server, app, cli   HTTP and the process

A log can behave like a public one, and it can have faults, by the specification or by the control
API while it runs:

    field                   pages, latencies, limits and tree heads like those of the public logs
    fault_types             the faults, as data
    faults                  which faults are in force, what they do to an answer, and misbehaviour:
                            logs that contradict what they signed

    oracle                  what should have been delivered against what was

| guarantee | test |
| --- | --- |
| the same specification gives the same entries and timestamps | tests/simlog/test_schedule.py |
| what the logs serve follows RFC 6962 and static-ct | tests/simlog/ctlog/test_serving.py |
| every fault does what its name states, and only that | tests/simlog/faults |
| the oracle finds loss, repetition and alteration | tests/simlog/oracle/test_oracle.py |
| `field` logs keep to the limits of their profiles | tests/simlog/test_field.py |
"""
