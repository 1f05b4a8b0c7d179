#!/bin/sh
# Prometheus for Sluice on one machine: keeps 90 days below PROMETHEUS_DATA, answers at PROMETHEUS_LISTEN.
# Whatever is given beside goes to Prometheus as it is. SIGTERM ends it in order.
set -eu
exec prometheus \
    --config.file="$(dirname "$0")/prometheus.yml" \
    --storage.tsdb.path="${PROMETHEUS_DATA:-prometheus-data}" \
    --storage.tsdb.retention.time=90d \
    --web.listen-address="${PROMETHEUS_LISTEN:-127.0.0.1:9090}" \
    "$@"
