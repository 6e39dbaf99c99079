#!/usr/bin/env bash
# Stops an Apache server and starts ringkeeper on its zoo.cfg and its data, stops that and starts Apache again, and so on,
# with changes by clients in between: nothing is converted, and everything has to be there each time, sessions and their
# ephemerals too.
#
#   swap.sh 3.8|3.9
#
# ringkeeper.sh tells which program is started. When it fails, the directory is kept and named.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
[ $# -eq 1 ] || {
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1 exec "$peers_dir/venv/bin/python" \
    "$peers_source/swap.py" "${APACHE_SH:-$peers_source/apache.sh}" "$1" "$peers_source/ringkeeper.sh"
