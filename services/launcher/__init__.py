"""The command `certstream-server`: up, ingest, gateway, simlog, tail."""
