#!/bin/sh
# Applies changes (image, settings of compose.yml) to a running stack without refusing clients: as
# many new gateways first; once the balancer uses them, the old ones stop one after the other; then the rest.
# The balancer is not touched: without it clients could not connect.
# Arguments go to `docker compose up`. A stack that was started with --env-file FILE needs COMPOSE_ENV_FILES=FILE.
set -eu
export COMPOSE_FILE="${COMPOSE_FILE:-$(dirname "$0")/compose.yml}"

old=$(docker compose ps --quiet gateway)
count=$(echo "$old" | wc -w)
[ "$count" -gt 0 ] || { echo "no gateway of this stack is running here; start it with docker compose up" >&2; exit 1; }

# Number of gateways that the balancer uses.
in_use() {
  docker exec "${old%%[!0-9a-f]*}" python3 -c '
from urllib.request import urlopen
lines = urlopen("http://balancer:8404/metrics", timeout=5).read().decode().splitlines()
up = [line for line in lines if line.startswith("haproxy_server_status{proxy=\"gateways\"")]
print(sum("state=\"UP\"" in line and line.endswith(" 1") for line in up))'
}

# With its dependencies, as always: --no-deps would count as another configuration of the new ones, and
# the last step would replace them all at once.
docker compose up --detach --wait --no-recreate --scale gateway=$((2 * count)) "$@" gateway
tries=60
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
