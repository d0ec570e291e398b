"""The command `certstream-server`.

    cli.py         the table of subcommands
    options.py     options that set settings, and the Config that they make
    commands/      a module or folder per subcommand, with `add_arguments` and `run`
    runtime/       processes: signals, logging, configuration reload, children, the embedded Redis
    terminal.py    output to a terminal
    optional_modules.py  modules that libraries import only because they are installed
    healthcheck.py the health check of the container image

A service is imported only by its own command, and only its entry point: `gateway.app`,
`ingestor.app`, `simlog.cli`. One `ConfigReloader` per process reads the configuration again; only
it writes the `ConfigHolder` of that process.

Tests: tests/launcher; tests/e2e/test_reload.py for the reload of running services.
"""
