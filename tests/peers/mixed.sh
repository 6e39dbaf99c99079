#!/usr/bin/env bash
# Ensembles of ringkeeper and Apache servers: each kind leads, follows and is replaced by the other.
#
#   mixed.sh 3.8|3.9 [--long]
#
# Every mix of three servers: writes through each of them, a killed leader, a server that comes back; the whole tree the
# same on all at the end, and Apache's digest of it. An observer of either kind learns from followers of the other, and loses
# its own. Then an ensemble of Apache servers is replaced server by server, and back again, under load by kazoo and by Java's
# client: no acknowledged write may be lost, and the sessions have to stay. --long does it more often. At last the members of
# mixed ensembles change under load: servers join, are put back to observers and promoted, and whoever leads is removed.
#
# RINGKEEPER tells which program is started. When it fails, the directory is kept and named.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
[ $# -ge 1 ] || {
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
class_path=$("$peers_source/apache.sh" classpath "$1")
classes=$peers_dir/mixed-classes/$1
mkdir -p "$classes"
javac -Xlint:all,-processing,-classfile,-path -d "$classes" -cp "$class_path" "$peers_source/mixed/JavaLoad.java"
export JAVA_LOAD=$classes:$class_path
export PYTHONPATH=$peers_dir/kazoo PYTHONDONTWRITEBYTECODE=1
"$peers_dir/venv/bin/python" "$peers_source/mixed.py" "$@"
exec "$peers_dir/venv/bin/python" "$peers_source/reconfig.py" "$@"
