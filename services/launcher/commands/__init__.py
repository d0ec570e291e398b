"""The subcommands: each module declares its options (`add_arguments`) and is run (`run`).

Shared by several commands: `redis_target` connects to the configured or embedded Redis, `find_log`
finds a log by its name, URL or id.
"""
