#!/usr/bin/env bash
# Plays transcripts of Apache's command line, zkCli, against a running server.
#
#   zkcli.sh [--client 3.8|3.9|ringkeeper] [--rewrite] HOST:PORT [TRANSCRIPT...]
#
#   --client     Debian's 3.8.0, or 3.9 (the default), or our own shell, which has to print the same
#   --rewrite    replace the expected output by what was printed; read the difference before keeping it
#   TRANSCRIPT   names of files in zkcli/, without .txt; without them the basic ones are played, which
#                any server passes: basic acl watches reconnect. zkcli_more.sh plays the others.
#
# transcript.py tells what a transcript is.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

client=3.9 rewrite=()
while [ $# -ge 1 ]; do
    case $1 in
    --client) client=$2 && shift 2 ;;
    --rewrite) rewrite=(--rewrite) && shift ;;
    *) break ;;
    esac
done
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
server=$1
shift
[ $# -gt 0 ] || set -- basic acl watches reconnect
transcripts=("${@/#/$peers_source/zkcli/}")

"$peers_source/apache.sh" wait "$server" 10
if [ "$client" = ringkeeper ]; then
    exec /usr/bin/python3 "$peers_source/transcript.py" ringkeeper \
        --program "${RINGKEEPER_CLI:-$peers_source/../../target/debug/ringkeeper-cli}" "${rewrite[@]}" \
        "$server" "${transcripts[@]/%/.txt}"
fi

# The client logs through slf4j; without a provider it is silent, and starts in half the time.
class_path=$("$peers_source/apache.sh" classpath "$client")
class_path=$(tr : '\n' <<<"$class_path" | grep -v -e /log4j- -e slf4j-simple | paste -sd :)

exec /usr/bin/python3 "$peers_source/transcript.py" zkcli \
    --class-path "$class_path" "${rewrite[@]}" \
    "$server" "${transcripts[@]/%/.txt}"
