#!/usr/bin/env bash
# Runs the server under test in the background, as apache.sh runs Apache's.
#
#   ringkeeper.sh start CONFIG   start the server on that zoo.cfg (with a clientPort, on 127.0.0.1, unless it is in
#                                $CLIENT_PORT: a reconfiguration takes it out of the file);
#                                returns when it answers clients; prints the pid, also kept in
#                                ringkeeper.pid beside CONFIG; output is added to ringkeeper.log there
#   ringkeeper.sh stop CONFIG    stop it and wait for its end; 1 if it had ended before, or had to be
#                                killed after 20 s
#   ringkeeper.sh crash CONFIG   kill -9 it, and wait for its end
#
# The program is $RINGKEEPER, by default what `cargo build` makes.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$peers_source/process.sh"

fail() {
    printf 'ringkeeper.sh: %s\n' "$*" >&2
    exit 1
}

start() {
    local program=${RINGKEEPER:-${CARGO_TARGET_DIR:-$peers_source/../../target}/debug/ringkeeper} port pid
    if [ -f "$pid_file" ] && is_running "$(cat "$pid_file")"; then
        fail "pid $(cat "$pid_file") already serves $config"
    fi
    # The last of two equal keys wins.
    port=$(sed -n 's/^clientPort=//p' "$config" | tail -n 1)
    port=${port:-${CLIENT_PORT:-}}
    [ -n "$port" ] || fail "no clientPort in $config"
    "$program" start-foreground "$config" >>"$log" 2>&1 </dev/null &
    pid=$!
    printf '%s\n' "$pid" >"$pid_file"
    if ! wait_until_serving 127.0.0.1 "$port" 30 "$pid"; then
        tail -n 20 "$log" >&2
        kill -9 "$pid" 2>/dev/null || true
        fail "no server on port $port"
    fi
    printf '%s\n' "$pid"
}

# Sends signal $1 and waits.
end_with() {
    local pid
    [ -f "$pid_file" ] || fail "no $pid_file"
    pid=$(cat "$pid_file")
    rm "$pid_file"
    is_running "$pid" || fail "pid $pid had ended: see $log"
    kill "-$1" "$pid"
    wait_until_ended "$pid" 20 && return
    kill -9 "$pid" 2>/dev/null || true
    fail "pid $pid did not end within 20 s of SIG$1"
}

if [ $# -ne 2 ]; then
    # The comment at the top is the manual.
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
config=$2 directory=$(dirname "$2")
pid_file=$directory/ringkeeper.pid log=$directory/ringkeeper.log
case $1 in
start) start ;;
stop) end_with TERM ;;
crash) end_with KILL ;;
*) fail "no such command: $1" ;;
esac
