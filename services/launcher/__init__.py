"""The command `certstream-server`: what a person or a container starts.

    cli.py         the subcommands and their options
    options.py     options that are settings, and the Config they make
    logsetup.py    where log lines go, and in which form
    service.py     one service in this process, from its first signal handler to its last
    health.py      whether a server answers: what a container's health check runs
    reloading.py   reading the configuration again while a service runs; watching.py: its file
    configuration.py: the command that prints the settings, and where each was said
    supervisor.py  child processes: started, restarted, stopped, none left behind
    up/            everything on one machine: Redis, services, the panel on a terminal
    tail/          a client: domains or JSON from a server or from Redis

Services are imported only by the command that runs them.
"""
