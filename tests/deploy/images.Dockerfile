# Redis, Valkey, HAProxy, Prometheus and redis_exporter from Debian's packages, at the paths of the official
# images: for a machine without access to an image registry.
ARG BASE
FROM ${BASE} AS debian
RUN apt-get update -qq

FROM debian AS redis
RUN apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
 && install -d -o 999 -g 999 /data

# Debian 12 has it in its backports. The official image has these two links, too.
FROM debian AS valkey
RUN sed -n '/^deb .* bookworm /{s/ bookworm / bookworm-backports /p;q}' /etc/apt/sources.list \
      >/etc/apt/sources.list.d/backports.list \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends valkey-server >/dev/null \
 && ln -s valkey-server /usr/bin/redis-server \
 && ln -s valkey-cli /usr/bin/redis-cli \
 && install -d -o 999 -g 999 /data

FROM debian AS haproxy
RUN apt-get install -y -qq --no-install-recommends haproxy >/dev/null

FROM debian AS prometheus
RUN apt-get install -y -qq --no-install-recommends prometheus >/dev/null \
 && install -d -o 65534 -g 65534 /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]

FROM debian AS redis-exporter
RUN apt-get install -y -qq --no-install-recommends prometheus-redis-exporter >/dev/null
ENTRYPOINT ["/usr/bin/prometheus-redis-exporter"]
