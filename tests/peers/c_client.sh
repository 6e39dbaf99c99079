#!/usr/bin/env bash
# Plays transcripts of the C client's command line, cli_mt (Debian's 3.8.0), against a running server.
#
#   c_client.sh [--rewrite] HOST:PORT [TRANSCRIPT...]
#
#   --rewrite    replace the expected output by what was printed; read the difference before keeping it
#   TRANSCRIPT   names of files in c_client/, without .txt; without them, all
#
# transcript.py tells what a transcript is.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

rewrite=()
if [ "${1:-}" = --rewrite ]; then
    rewrite=(--rewrite)
    shift
fi
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
server=$1
shift
[ $# -gt 0 ] || set -- basic watches reconnect
transcripts=("${@/#/$peers_source/c_client/}")

"$peers_source/apache.sh" wait "$server" 10
exec /usr/bin/python3 "$peers_source/transcript.py" cli_mt "${rewrite[@]}" "$server" "${transcripts[@]/%/.txt}"
