#!/usr/bin/env bash
# Starts an Apache server on a snapshot that ringkeeper wrote, and compares what a client reads there
# with what it read from the Apache server that the data came from (tests/golden).
#
#   handback.sh 3.8|3.9
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$peers_source/../.." && pwd)
peers_dir=${PEERS_DIR:-$repo/target/peers}
[ $# -eq 1 ] || {
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
# This test leaves the snapshot there.
(cd "$repo" && cargo test --quiet --test apache_directory a_snapshot_written_again >/dev/null)
snapshots=${CARGO_TARGET_DIR:-$repo/target}/tmp/apache-$1-again
PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1 exec "$peers_dir/venv/bin/python" \
    "$peers_source/handback.py" "${APACHE_SH:-$peers_source/apache.sh}" "$1" "$snapshots" "$repo/tests/golden/apache-$1"
