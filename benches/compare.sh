#!/usr/bin/env bash
# Compares ringkeeper with Apache ZooKeeper 3.9 on this machine, on the same disk, in interleaved rounds.
#
#   benches/compare.sh [OPTIONS]
#
#   --label NAME       names the results: benches/runs/<date>-NAME/ (default: this commit)
#   --rounds N         counted rounds for each server (default 3)
#   --servers LIST     some of "apache ringkeeper" (default both)
#   --scenarios LIST   some of "set create open lone get startup" (default all)
#   --dir DIR          data directories go here, on a real disk (default target/bench)
#   --seconds N        length of a timed measurement (default 10)
#   --warm N           un-counted seconds of load after each start, for each kind of operation (default 6)
#   --creates N        znodes made in scenario create (default 200000)
#   --znodes N         znodes in scenario startup (default 1000000)
#   --patience N       wait at most so many seconds for the machine to be quiet before each measurement (default 60)
#   --port P           client port (default 23181)
#   --no-build         use the release binaries as they are
#
# Scenarios, each against a server that has been warmed up with the same load:
#
#   set       setData 1 KB, 32 connections x 16 outstanding; also the server's CPU time per write
#   create    create 1 KB, 32 x 16; a fixed number, so that both servers hold the same tree
#   open      setData 1 KB, 10,000 a second whatever the server does
#   lone      setData 100 B, one at a time; beside it the floor of disk and loopback, measured just before
#   get       getData 1 KB, 32 x 16
#   startup   a tree of many znodes of 100 B: resident memory, and time from exec to an answer
#
# A JVM is slow in its first seconds and each round starts a new one, so every start is followed by load that is not
# counted, for both servers alike. Apache: -Xmx1g, forceSync and snapCount as they are by default.
#
# Writes raw results as JSON, and their medians to summary.txt and summary.json. Exits with 1 if a measurement failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

label='' rounds=3 servers='apache ringkeeper' scenarios='set create open lone get startup' dir=target/bench
seconds=10 warm=6 creates=200000 znodes=1000000 patience=60 port=23181 build=yes

fail() {
    printf 'compare.sh: %s\n' "$*" >&2
    exit 2
}

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }

while [ $# -gt 0 ]; do
    case $1 in
    --no-build)
        build=no
        shift
        continue
        ;;
    --label | --rounds | --servers | --scenarios | --dir | --seconds | --warm | --creates | --znodes | --patience | --port)
        [ $# -ge 2 ] || fail "$1 wants a value"
        declare "${1#--}=$2"
        shift 2
        ;;
    *)
        sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
    esac
done
for server in $servers; do
    [[ $server =~ ^(apache|ringkeeper)$ ]] || fail "no server $server"
done

binaries=${CARGO_TARGET_DIR:-target}/release
apache=tests/peers/apache.sh
[ -n "$label" ] || label=$(git rev-parse --short HEAD)
runs=benches/runs/$(date +%F)-$label
raw=$runs/raw

server_pid=''
failures=0

# Whether a server on port $port says its mode. No process is made, so it can be asked often.
serves() {
    local line
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
    printf srvr >&3 2>/dev/null || true
    # A starting Apache server may accept and never answer.
    while IFS= read -r -t 0.2 line <&3; do
        if [[ $line == Mode:* ]]; then
            exec 3>&-
            return 0
        fi
    done
    exec 3>&-
    return 1
}

is_running() {
    local state
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

# Starts server $1 on data directory $2 and sets $startup_us to the time until it answered.
start_server() {
    local server=$1 data=$2 begin deadline
    ! serves || fail "port $port is in use"
    mkdir -p "$data"
    begin=${EPOCHREALTIME/./}
    case $server in
    apache) bash $apache run --data "$data" --port "$port" --heap 1g >"$data.out" 2>&1 </dev/null & ;;
    ringkeeper)
        printf '%s\n' tickTime=2000 initLimit=10 syncLimit=5 "dataDir=$data" "clientPort=$port" \
            clientPortAddress=127.0.0.1 '4lw.commands.whitelist=*' maxClientCnxns=0 admin.enableServer=false \
            >"$data.cfg"
        "$binaries/ringkeeper" start-foreground "$data.cfg" >"$data.out" 2>&1 </dev/null &
        ;;
    esac
    server_pid=$!
    deadline=$((SECONDS + 120))
    until serves; do
        if ! is_running "$server_pid" || [ $SECONDS -ge $deadline ]; then
            tail -n 20 "$data.out" >&2
            fail "$server does not serve on port $port"
        fi
        sleep 0.01
    done
    startup_us=$((${EPOCHREALTIME/./} - begin))
}

stop_server() {
    [ -n "$server_pid" ] || return 0
    kill "$server_pid" 2>/dev/null || true
    local deadline=$((SECONDS + 60))
    while is_running "$server_pid"; do
        [ $SECONDS -lt $deadline ] || kill -9 "$server_pid" 2>/dev/null || true
        sleep 0.05
    done
    wait "$server_pid" 2>/dev/null || true
    server_pid=''
}

# A write to a server that hangs up must not end this script.
trap : PIPE
trap stop_server EXIT
trap 'exit 130' INT TERM

latency() {
    timeout 600 "$binaries/ringkeeper-latency" "$@"
}

load() {
    latency --servers "127.0.0.1:$port" --server-pid "$server_pid" "$@"
}

# How many percent of all cores were busy during half a second.
busy_percent() {
    local before after i total=0
    read -ra before </proc/stat
    sleep 0.5
    read -ra after </proc/stat
    # Behind "cpu": user nice system idle iowait irq softirq steal.
    for i in 1 2 3 4 5 6 7 8; do total=$((total + after[i] - before[i])); done
    echo $((100 - 100 * (after[4] + after[5] - before[4] - before[5]) / (total > 0 ? total : 1)))
}

# Waits until the machine is quiet (the server being idle); notes in the results if measurement $1 began without.
await_quiet() {
    local busy deadline=$((SECONDS + patience))
    until busy=$(busy_percent) && [ "$busy" -le 15 ]; do
        if [ $SECONDS -ge $deadline ]; then
            printf 'NOT QUIET: %s began with %s%% of the cores busy\n' "$1" "$busy" | tee -a "$runs/machine.txt"
            return
        fi
        sleep 1
    done
}

# Runs one measurement, named $1, with the remaining arguments; its result is $raw/$1.json.
measure() {
    local name=$1
    shift
    await_quiet "$name"
    say "$name"
    if ! "$@" --json "$raw/$name.json" >"$raw/$name.txt"; then
        say "$name FAILED"
        mv "$raw/$name.json" "$raw/$name.failed" 2>/dev/null || : >"$raw/$name.failed"
        failures=$((failures + 1))
    fi
}

wants() { [[ " $scenarios " == *" $1 "* ]]; }

resident_kb() { sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$server_pid/status"; }

warm_up() {
    say "warming up $1"
    load --op set --duration "$warm" --warmup 0 >/dev/null
    load --op get --duration "$warm" --warmup 0 >/dev/null
    load --op create --count $((creates / 2)) >/dev/null
}

# The scenarios on one running server, with results named for round $1 and server $2.
run_scenarios() {
    local name=$1-$2
    ! wants set || measure "$name-set" load --op set --duration "$seconds"
    ! wants create || measure "$name-create" load --op create --count "$creates"
    ! wants open || measure "$name-open" load --op set --rate 10000 --duration "$seconds"
    if wants lone; then
        measure "$name-probe" latency probe --dir "$dir" --seconds 2
        measure "$name-lone" load --op set --size 100 --connections 1 --outstanding 1 --duration "$seconds"
    fi
    ! wants get || measure "$name-get" load --op get --duration "$seconds"
}

# Fills a new server with znodes, starts it again and takes its time and memory.
run_startup() {
    local name=$1-$2-startup data=$dir/$2-startup filled_kb
    rm -rf "$data"
    await_quiet "$name"
    say "$name: $znodes znodes"
    start_server "$2" "$data"
    if load --op create --size 100 --count "$znodes" --keep --json "$raw/$1-$2-fill.json" >"$raw/$1-$2-fill.txt"; then
        filled_kb=$(resident_kb)
        stop_server
        start_server "$2" "$data"
        printf '{"znodes": %d, "startup_seconds": %d.%06d, "filled_rss_kb": %d, "started_rss_kb": %d}\n' "$znodes" \
            $((startup_us / 1000000)) $((startup_us % 1000000)) "$filled_kb" "$(resident_kb)" >"$raw/$name.json"
    else
        say "$name FAILED"
        : >"$raw/$name.failed"
        failures=$((failures + 1))
    fi
    stop_server
    rm -rf "$data"
}

run_round() {
    local data=$dir/$2
    rm -rf "$data"
    if wants set || wants create || wants open || wants lone || wants get; then
        start_server "$2" "$data"
        warm_up "$2"
        run_scenarios "$1" "$2"
        stop_server
        rm -rf "$data"
    fi
    ! wants startup || run_startup "$1" "$2"
}

describe_machine() {
    printf 'date: %s\n' "$(date -u +%FT%TZ)"
    printf 'commit: %s%s\n' "$(git rev-parse HEAD)" "$(git diff --quiet HEAD || printf ' with changes')"
    printf 'kernel: %s\n' "$(uname -sr)"
    printf 'cpu: %s x %s\n' "$(nproc)" "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
    printf 'memory: %s\n' "$(sed -n 's/^MemTotal:[[:space:]]*//p' /proc/meminfo)"
    printf 'disk: %s\n' "$(findmnt --noheadings --output FSTYPE,SOURCE,OPTIONS --target "$dir")"
    printf 'load before: %s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
    printf 'java: %s\n' "$(java -version 2>&1 | head -n 1)"
    printf 'apache: %s\n' "$(bash $apache classpath 3.9 2>/dev/null | tr : '\n' | sed -n 's|.*/\(zookeeper-3.*\)\.jar|\1|p')"
    printf 'settings: rounds %s, seconds %s, warm %s, creates %s, znodes %s\n' \
        "$rounds" "$seconds" "$warm" "$creates" "$znodes"
}

mkdir -p "$dir"
case $(stat --file-system --format %T "$dir") in
tmpfs | ramfs) fail "$dir is in memory: nothing there is ever durable" ;;
esac
[ ! -e "$runs" ] || fail "$runs is there already: choose another --label"
[ "$build" = no ] || cargo build --release
[[ " $servers " != *" apache "* ]] || tests/peers/install.sh
mkdir -p "$raw"
describe_machine | tee "$runs/machine.txt"

for ((round = 1; round <= rounds; round++)); do
    order=$servers
    # Take turns at going first.
    if [ $((round % 2)) -eq 0 ]; then order=$(tr ' ' '\n' <<<"$servers" | tac | tr '\n' ' '); fi
    for server in $order; do
        run_round "$round" "$server"
    done
done

python3 benches/summary.py "$runs"
[ "$failures" -eq 0 ] || fail "$failures measurements failed: see $raw/*.failed"
