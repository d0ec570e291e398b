#!/bin/sh
# Brings what changed (image, settings of compose.yml) into a running stack without all gateways being
# away at once: as many new ones first, then the old ones go one after the other, then the rest.
# Arguments go to `docker compose up`. A stack that was started with --env-file FILE needs COMPOSE_ENV_FILES=FILE.
set -eu
export COMPOSE_FILE="${COMPOSE_FILE:-$(dirname "$0")/compose.yml}"

old=$(docker compose ps --quiet gateway)
count=$(echo "$old" | wc -w)
[ "$count" -gt 0 ] || { echo "no gateway of this stack runs here: docker compose up starts it" >&2; exit 1; }
docker compose up --detach --wait --no-deps --no-recreate --scale gateway=$((2 * count)) "$@" gateway
for container in $old; do
  docker stop "$container"
  docker rm --volumes "$container"
done
docker compose up --detach --scale gateway="$count" "$@"
