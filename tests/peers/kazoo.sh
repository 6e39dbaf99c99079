#!/usr/bin/env bash
# Runs kazoo's own test suite against a running server.
#
#   kazoo.sh [--stop COMMAND --start COMMAND] [--has NEED]... HOST:PORT [PYTEST OPTION...]
#
#   --stop, --start   shell commands that stop and start the server $SERVER (HOST:PORT) for the
#                     tests that restart it, and return when that is done; without them those tests
#                     are skipped
#   --has NEED        run the tests that kazoo_suite/skips.txt leaves out for this need; that file
#                     names every test left out, with the reason
#   HOST:PORT         several servers of one ensemble are written HOST:PORT,HOST:PORT
#   PYTEST OPTION     such as `-k Lock` or `-v`
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}

KAZOO_HAS=
while [ $# -ge 2 ]; do
    case $1 in
    --stop) export KAZOO_STOP_COMMAND=$2 ;;
    --start) export KAZOO_START_COMMAND=$2 ;;
    --has) KAZOO_HAS+=" $2" ;;
    *) break ;;
    esac
    shift 2
done
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
export KAZOO_HAS KAZOO_SERVERS=$1
shift
export KAZOO_SKIP_FILE=$peers_source/kazoo_suite/skips.txt

"$peers_source/apache.sh" wait "${KAZOO_SERVERS%%,*}" 10

# Some tests behave otherwise where CI is set.
unset CI
cd "$peers_dir/kazoo"
export PYTHONPATH=$peers_dir/kazoo:$peers_source/kazoo_suite PYTHONDONTWRITEBYTECODE=1
# kazoo's own settings (addopts, log_cli) print every log line of every client.
exec "$peers_dir/venv/bin/python" -m pytest -p external_cluster -p no:cacheprovider \
    -o addopts= -o log_cli=false --timeout=60 --tb=short -rsfE --disable-warnings --quiet kazoo/tests "$@"
