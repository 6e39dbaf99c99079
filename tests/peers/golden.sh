#!/usr/bin/env bash
# Makes tests/golden/apache-VERSION anew: what an Apache server writes to its directory, and what a
# client reads from it at the end.
#
#   golden.sh 3.8|3.9
#
# The server is filled, stopped, started again (which writes a snapshot), and changed again, so that
# there are a log, a snapshot, and a log after it. Logs are cut after their last record: the zeros
# that Apache leaves behind it are not kept.
#
# Times, session ids and digests differ in each run; no test depends on them.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
[ $# -eq 1 ] || {
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1 exec "$peers_dir/venv/bin/python" \
    "$peers_source/golden.py" "${APACHE_SH:-$peers_source/apache.sh}" "$1" "$peers_source/../golden/apache-$1"
