#!/bin/sh
# Updates a running stack to a new image or new settings of compose.yml without refusing a client: starts
# as many new gateways, waits until the balancer uses them, stops the old ones one after the other, then
# updates the rest. It does not replace the balancer: without it no client could connect.
# Arguments go to `docker compose up`. A stack that was started with --env-file FILE needs COMPOSE_ENV_FILES=FILE.
set -eu
export COMPOSE_FILE="${COMPOSE_FILE:-$(dirname "$0")/compose.yml}"

old=$(docker compose ps --quiet gateway)
count=$(echo "$old" | wc -w)
[ "$count" -gt 0 ] || { echo "no gateway of this stack is running here; start it with docker compose up" >&2; exit 1; }

# Number of gateways that the balancer sends clients to. Its checks decide, not Docker's: an old gateway
# that Docker reports unhealthy may be the reason for the update.
in_use() {
  docker exec "${old%%[!0-9a-f]*}" python3 -c '
from urllib.request import urlopen
lines = urlopen("http://balancer:8404/metrics", timeout=5).read().decode().splitlines()
up = [line for line in lines if line.startswith("haproxy_server_status{proxy=\"gateways\"")]
print(sum("state=\"UP\"" in line and line.endswith(" 1") for line in up))'
}

# With its dependencies, as always: --no-deps would count as another configuration of the new ones, and
# the last step would replace them all at once.
docker compose up --detach --no-recreate --scale gateway=$((2 * count)) "$@" gateway
tries=120
until [ "$(in_use)" -ge $((2 * count)) ]; do
  tries=$((tries - 1))
  [ "$tries" -gt 0 ] || { echo "the balancer does not use the new gateways; keeping the old ones" >&2; exit 1; }
  sleep 1
done
for container in $old; do
  docker stop "$container"
  docker rm --volumes "$container"
done
# shellcheck disable=SC2046 # names of services are words
docker compose up --detach --scale gateway="$count" "$@" $(docker compose config --services | grep -vx balancer)
