#!/usr/bin/env bash
# Runs tests with the clients of node against a running server: node-zookeeper-client, which is JavaScript throughout,
# and zookeeper, the C client in node.
#
#   node_client.sh HOST:PORT
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
if [ $# -ne 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
"$peers_source/apache.sh" wait "$1" 10
export SERVER=$1 NODE_PATH=$peers_dir/node/node_modules
# A test that waits in vain ends with this; a client that is not closed keeps the process.
exec timeout 120 node --test "$peers_source"/node_client/*.test.js
