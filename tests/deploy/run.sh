#!/usr/bin/env bash
# The image and the Compose stack, for real: builds what is missing, then runs tests/deploy.
#
#   tests/deploy/run.sh [--if-possible] [--valkey] [arguments of pytest]
#
# Takes the Docker daemon that is there, else starts one for as long as the tests run. Where an image
# registry answers, the official images are used; else Redis, HAProxy, Prometheus and redis_exporter
# come from Debian's packages, and the base of our image from debootstrap. With --if-possible, what the machine
# lacks is no failure, but said. With --valkey, Valkey is in the place of Redis. What takes long is
# kept in $CACHE.
set -euo pipefail
cd "$(dirname "$0")/../.."

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/certstream-server-test-deploy
DEBIAN=certstream-test/base
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

if_possible=
if [ "${1:-}" = --if-possible ]; then if_possible=yes; shift; fi
redis=redis
if [ "${1:-}" = --valkey ]; then redis=valkey; shift; fi

cannot() {
  echo "test-deploy: skipped: $*" >&2
  [ -n "$if_possible" ] && exit 0 || exit 1
}

say() { echo "test-deploy: $* ($SECONDS s)"; }

# ---------------------------------------------------------------- Docker, Compose

install_packages() {
  local missing=()
  docker info >/dev/null 2>&1 || command -v dockerd >/dev/null || missing+=(docker.io iptables)
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1
}

start_docker() {
  docker info >/dev/null 2>&1 && return
  say "starting a Docker daemon"
  export DOCKER_HOST=unix://$CACHE/docker.sock
  dockerd --host="$DOCKER_HOST" --data-root="$CACHE/docker" --exec-root="$CACHE/exec" \
    --pidfile="$CACHE/docker.pid" >"$CACHE/dockerd.log" 2>&1 &
  daemon=$!
  trap 'kill $daemon; wait $daemon || true' EXIT
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    kill -0 $daemon 2>/dev/null || break
    sleep 0.5
  done
  tail -5 "$CACHE/dockerd.log" >&2
  return 1
}

# Its own place for plugins: the configuration of whoever runs this stays as it is.
find_compose() {
  docker compose version >/dev/null 2>&1 && return
  export DOCKER_CONFIG=$CACHE/config
  docker compose version >/dev/null 2>&1
}

# From Debian 13, since Debian 12 has no Compose v2; it is one file that needs nothing else.
fetch_compose() {
  local apt=$CACHE/apt plugins=$DOCKER_CONFIG/cli-plugins
  rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$plugins" && cd "$apt" || return 1
  echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian trixie main" >sources.list
  local options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt" -o APT::Sandbox::User=root)
  apt-get -qq "${options[@]}" update && apt-get -qq "${options[@]}" download docker-compose &&
    dpkg-deb --extract docker-compose_*.deb . &&
    cp usr/libexec/docker/cli-plugins/docker-compose "$plugins"
}

# ---------------------------------------------------------------- images

registry_answers() { timeout 120 docker pull --quiet "$BASE" >/dev/null 2>&1; }

make_base() {
  docker image inspect $DEBIAN >/dev/null 2>&1 && return
  say "making a base image"
  local root=$CACHE/root
  rm -rf "$root" &&
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
      >"$CACHE/debootstrap.log" 2>&1 &&
    cp "$CERTIFICATES" "$root$CERTIFICATES" && # the package index may have its own
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* &&
    tar --directory="$root" --create . | docker import - $DEBIAN >/dev/null &&
    rm -rf "$root"
}

# Without BuildKit, for which Debian's Docker has no plugin.
build() {
  DOCKER_BUILDKIT=0 docker build --network=host --build-arg "BASE=$BASE" \
    --build-arg HTTP_PROXY --build-arg HTTPS_PROXY --build-arg NO_PROXY "$@" >"$CACHE/build.log" 2>&1 ||
    { tail -40 "$CACHE/build.log" >&2; return 1; }
}

build_others() {
  for service in $redis haproxy prometheus redis-exporter; do
    build --target=$service --tag=certstream-test/$service \
      --file=tests/deploy/images.Dockerfile tests/deploy || return 1
  done
}

# ---------------------------------------------------------------- and go

[ "$(id -u)" = 0 ] || cannot "this needs root"
mkdir -p "$CACHE"
install_packages || cannot "Docker or debootstrap cannot be installed"
start_docker || cannot "dockerd does not start here"

if ! find_compose; then
  say "fetching Compose"
  (fetch_compose) >"$CACHE/compose.log" 2>&1 || cannot "Compose cannot be had: see $CACHE/compose.log"
fi

BASE=$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)
arguments=(--build-arg PIP_INDEX_URL)
if ! registry_answers; then
  say "no image registry answers: images are made of Debian's packages"
  make_base || cannot "no base image can be made: see $CACHE/debootstrap.log"
  BASE=$DEBIAN
  arguments+=(--build-arg "PIP_CERT=$CERTIFICATES")
  build_others || cannot "Debian's packages cannot be had"
  export REDIS_IMAGE=certstream-test/$redis HAPROXY_IMAGE=certstream-test/haproxy
  export PROMETHEUS_IMAGE=certstream-test/prometheus GRAFANA_IMAGE=certstream-test/prometheus
  export REDIS_EXPORTER_IMAGE=certstream-test/redis-exporter
fi

if [ $redis = valkey ]; then
  export REDIS_IMAGE=${REDIS_IMAGE:-valkey/valkey:8.1-alpine}
  say "in place of Redis: $(docker run --rm --entrypoint redis-server "$REDIS_IMAGE" --version)"
fi

say "building the image"
export CERTSTREAM_IMAGE=certstream-server:test
build "${arguments[@]}" --build-arg "REVISION=$(git rev-parse HEAD)" --tag=$CERTSTREAM_IMAGE \
  --file=deploy/Dockerfile .

say "testing"
.venv/bin/python -m pytest -m deploy tests/deploy "$@"
say "done"
