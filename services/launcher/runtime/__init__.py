"""The life of processes.

    run_service.py    one service in this process: its event loop, its signals, its exit status
    logging_setup.py  structlog and the libraries' logging
    config_reload.py  reads the configuration again, on SIGHUP or a change of its file
    file_watch.py     notices a change of a file
    supervisor.py     child processes: restarted, probed, stopped in time, none left behind
    forked.py         children that are copies of this process
    embedded_redis.py the redis-server of one machine, a child that is locked to its data
    systemd.py        notifications to systemd: ready, reloading, stopping, watchdog
    runtime_dir.py    a private directory with the lifetime of one `up`

Tests: tests/launcher/runtime.
"""
