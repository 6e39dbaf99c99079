#!/usr/bin/env bash
# Runs the operations that Kafka, HBase, Hadoop and Solr are known for against a running server, over kazoo.
#
#   workloads.sh HOST:PORT
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
if [ $# -ne 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
"$peers_source/apache.sh" wait "$1" 10
export PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1
exec timeout 120 "$peers_dir/venv/bin/python" "$peers_source/workloads.py" "$1"
