#!/usr/bin/env bash
# Compares Apache's shell and ours, command by command, on a running server and on an Apache server.
#
#   shells.sh [--show] HOST:PORT|apache [SCRIPT...]
#
#   --show   print what Apache's shell answers
#   SCRIPT   names of files in shells/, without .txt; without them all of them
#
# For the word `apache` an Apache 3.9 server is started and stopped. shells.py tells what a script is.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=${RINGKEEPER_CLI:-$peers_source/../../target/debug/ringkeeper-cli}

show=()
if [ "${1:-}" = --show ]; then
    show=(--show)
    shift
fi
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
server=$1
shift

if [ "$server" = apache ]; then
    data=$(mktemp -d)
    stop() {
        "$peers_source/apache.sh" stop --data "$data" || true
        rm -rf "$data"
    }
    trap stop EXIT
    # As in tests/run: out of the range of outgoing connections.
    while port=$((10000 + RANDOM % 20000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    "$peers_source/apache.sh" start --data "$data" --port "$port" >/dev/null
    server=127.0.0.1:$port
else
    "$peers_source/apache.sh" wait "$server" 10
fi

if [ $# -gt 0 ]; then
    scripts=("${@/#/$peers_source/shells/}")
    scripts=("${scripts[@]/%/.txt}")
else
    scripts=("$peers_source"/shells/*.txt)
fi
# The client logs through slf4j; without a provider it is silent, and starts in half the time.
class_path=$("$peers_source/apache.sh" classpath 3.9)
class_path=$(tr : '\n' <<<"$class_path" | grep -v -e /log4j- -e slf4j-simple | paste -sd :)
/usr/bin/python3 "$peers_source/shells.py" --class-path "$class_path" --program "$program" "${show[@]}" \
    "$server" "${scripts[@]}"
