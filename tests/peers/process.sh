# Sourced by the scripts that start servers: waiting for processes, never without a bound.

# A process that ended but was not reaped, as in a container without an init, is not running.
is_running() {
    local state
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

# One four-letter word. A starting Apache server may accept and never answer: hence the short
# limit and the redial by the caller.
serves_clients() {
    timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf srvr >&3 && cat <&3' "$1" "$2" 2>/dev/null |
        grep -q '^Mode: '
}

# Waits for host $1, port $2, at most $3 seconds; gives up early when process $4 (optional) ends.
wait_until_serving() {
    local deadline=$((SECONDS + $3))
    until serves_clients "$1" "$2"; do
        if [ $# -ge 4 ] && ! is_running "$4"; then return 1; fi
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

# Waits at most $2 seconds for the end of process $1.
wait_until_ended() {
    local deadline=$((SECONDS + $2))
    while is_running "$1"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# Sets port to one on which nobody listens, out of the range that outgoing connections are given. None is given twice to one
# script: who asks may not have begun to listen.
ports_given=' '
free_port() {
    while
        port=$((10000 + RANDOM % 20000))
        [[ $ports_given == *" $port "* ]] || (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
    do :; done
    ports_given+="$port "
}
