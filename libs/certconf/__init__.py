"""Settings: defaults < config.yaml < CERTSTREAM_* < command line -> one validated Config."""
