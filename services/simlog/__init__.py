"""Simulated Certificate Transparency logs by seed, and the oracle that knows their truth.

A world is a function of its specification and the time: which certificate enters which log at
which millisecond is settled by the seed before anything runs, so a world that is killed and
started again serves the same logs, and a test can say what must have arrived.

    spec          what a world is made of
    chance        where its random bytes come from
    schedule      which certificate enters which log, and when
    x509der, authorities, certificates    certificate number n, and who issued it
    tree          the Merkle tree of one log
    log           key, tree and signed tree heads of one log
    rfc6962, static_ct    what the two kinds of log serve
    world         all logs of one specification, moved on by the clock
    record        every entry of a world, as lines; and every lie
    loglist       the signed log list, and the configuration that follows the world
    server, routes, app, cli    HTTP and the process
    traffic       who was asked how often

What can be wrong with the logs, by the specification or switched on while they are served:

    faults        what can be wrong, as data
    switches, control    what is wrong now, and how to change it
    asked, troubled      which requests it hits, and what they are answered
    breakage      answers that are slow, refused or broken
    lies          logs that are not what they signed

    examine, oracle    what should have been delivered against what was
"""
