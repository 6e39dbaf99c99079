#!/usr/bin/env bash
# Runs all suites against Apache ZooKeeper 3.9: the check that what they demand is what Apache does.
#
#   against_apache.sh [PORT]
#
# Servers are started on the loopback ports PORT (default 22181) and PORT + 1, and stopped at the end.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${1:-22181}
server=127.0.0.1:$port
ttl_server=127.0.0.1:$((port + 1))
data=$(mktemp -d)

apache() { "$peers_source/apache.sh" "$1" --data "$data/$2" "${@:3}"; }

stop_all() {
    apache stop plain || true
    apache stop ttl || true
    rm -rf "$data"
}
trap stop_all EXIT

failed=()
suite() {
    echo "== $*"
    local started=$SECONDS
    "$peers_source/$1" "${@:2}" || failed+=("$1")
    echo "== $1 took $((SECONDS - started)) s"
}

"$peers_source/install.sh"
apache start plain --port "$port" >/dev/null
apache start ttl --port "$((port + 1))" --java -Dzookeeper.extendedTypesEnabled=true >/dev/null

suite c_client.sh "$server"
suite node_client.sh "$server"
suite workloads.sh "$server"
suite rust_client.sh --has add-watch --has counts --has multi-read --has whoami "$server"
for client in 3.8 3.9; do
    suite zkcli.sh --client $client "$server"
    suite zkcli_more.sh --client $client "$server"
    suite zkcli.sh --client $client "$ttl_server" ttl
    suite curator.sh --client $client --has add-watch "$server"
done
suite kazoo.sh "$server"

# kazoo's tests that restart the server. A starting Apache may accept a connection and then never answer
# on it, longer than these tests wait: hence more than one try.
kazoo_restarts() {
    "$peers_source/kazoo.sh" \
        --stop "'$peers_source/apache.sh' stop --data '$data/plain'" \
        --start "'$peers_source/apache.sh' start --data '$data/plain' --port $port" "$server" -k request_queuing
}
echo "== kazoo.sh, restarts"
kazoo_restarts || kazoo_restarts || kazoo_restarts || failed+=("kazoo.sh, restarts")

if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
