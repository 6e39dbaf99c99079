#!/usr/bin/env bash
# Asks the AdminServer of Apache 3.9 and of the built ringkeeper the same, and compares what they answer.
#
#   admin.sh
#
# Both are new, on ports of their own, and have the same sessions, znodes and watches, made by kazoo. admin.py says what
# may differ.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$peers_source/../.." && pwd)
peers_dir=${PEERS_DIR:-$repo/target/peers}
target=${CARGO_TARGET_DIR:-$repo/target}
. "$peers_source/process.sh"

mkdir -p "$target/tmp"
directory=$(mktemp -d "$target/tmp/admin.XXXXXX")
right=''
at_exit() {
    local code=$?
    [ ! -f "$directory/apache/apache.pid" ] || "$peers_source/apache.sh" stop --data "$directory/apache" || code=1
    [ -z "$right" ] || "$peers_source/ringkeeper.sh" stop "$directory/zoo.cfg" || code=1
    if [ $code -eq 0 ]; then rm -rf "$directory"; else echo "logs are in $directory"; fi
    exit $code
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_port && left_port=$port
free_port && left_admin=$port
"$peers_source/apache.sh" start --data "$directory/apache" --port "$left_port" --cfg admin.enableServer=true \
    --cfg admin.serverAddress=127.0.0.1 --cfg "admin.serverPort=$left_admin" >/dev/null
free_port && right_port=$port
free_port && right_admin=$port
free_port && metrics=$port
# As apache.sh writes it, but for the ports.
printf '%s\n' tickTime=2000 initLimit=10 syncLimit=5 "dataDir=$directory/data" "clientPort=$right_port" \
    clientPortAddress=127.0.0.1 maxClientCnxns=0 '4lw.commands.whitelist=*' admin.enableServer=true \
    admin.serverAddress=127.0.0.1 "admin.serverPort=$right_admin" \
    metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider \
    metricsProvider.httpHost=127.0.0.1 "metricsProvider.httpPort=$metrics" >"$directory/zoo.cfg"
"$peers_source/ringkeeper.sh" start "$directory/zoo.cfg" >/dev/null
right=1

PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1 "$peers_dir/venv/bin/python" "$peers_source/admin.py" "127.0.0.1:$left_port" "127.0.0.1:$left_admin" \
    "127.0.0.1:$right_port" "127.0.0.1:$right_admin" "127.0.0.1:$metrics"
