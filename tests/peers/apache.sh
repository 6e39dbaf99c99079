#!/usr/bin/env bash
# Runs an Apache ZooKeeper server: the oracle and the yardstick of the tests.
#
#   apache.sh run   OPTIONS      serve in the foreground (this process becomes the JVM: the caller
#                                owns the pid and stops the server by killing it)
#   apache.sh start OPTIONS      serve in the background; returns when it answers clients;
#                                prints the pid, also kept in DIR/apache.pid; output in DIR/apache.log
#   apache.sh stop --data DIR    stop what `start` started on that directory, and wait for its end
#   apache.sh wait HOST:PORT [SECONDS]   wait (default 30 s) until a server, Apache's or not, serves
#                                clients there: until `srvr` answers with a mode
#   apache.sh classpath 3.8|3.9  print the class path of that version: server, client and zkCli
#
# OPTIONS
#   --data DIR           required: data directory; zoo.cfg, myid, apache.pid, apache.log go there too
#   --port P             required: client port, on 127.0.0.1
#   --version 3.8|3.9    Debian's 3.8.0 or the 3.9 of install.sh (default 3.9)
#   --cfg KEY=VALUE      a line for zoo.cfg, as often as needed; wins over the defaults below
#   --myid N             for a member of an ensemble (give every server.N by --cfg)
#   --heap SIZE          such as 1g: for speed comparisons, with the JVM's own choice of collector;
#                        the default is 256m and the serial collector, for many small servers
#   --java OPTION        one more JVM option, such as -Dzookeeper.extendedTypesEnabled=true; as often
#                        as needed (jute.maxbuffer, readonlymode.enabled and znode.container.* are
#                        only read from such properties by Apache, never from zoo.cfg)
#
# Defaults in zoo.cfg: tickTime 2000, initLimit 10, syncLimit 5, all four-letter words allowed, no
# limit on connections of one address, no admin server. Flushes are real, as Apache's default is.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
. "$peers_source/process.sh"

fail() {
    printf 'apache.sh: %s\n' "$*" >&2
    exit 1
}

usage() {
    # The comment at the top is the manual.
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

classpath() {
    local jars=()
    case $1 in
    3.8)
        [ -e /usr/share/java/zookeeper.jar ] || fail "no /usr/share/java/zookeeper.jar: run install.sh"
        # The manifest of zookeeper.jar names its other dependencies, but not these.
        jars=(zookeeper slf4j-simple netty-codec netty-resolver netty-transport-native-unix-common)
        jars=("${jars[@]/#//usr/share/java/}")
        jars=("${jars[@]/%/.jar}")
        ;;
    3.9)
        jars=("$peers_dir"/jars/3.9/*.jar)
        [ -e "${jars[0]}" ] || fail "no jars in $peers_dir/jars/3.9: run install.sh"
        # For log4j2.properties; and Debian's Jetty, which Apache's AdminServer is made of.
        jars+=("$peers_source" /usr/share/java/jetty9-{http,io,security,server,servlet,util,util-ajax}.jar)
        ;;
    *) fail "version $1 is not one of 3.8, 3.9" ;;
    esac
    local IFS=:
    printf '%s\n' "${jars[*]}"
}

# Reads OPTIONS into these.
data='' port='' version=3.9 myid='' heap='' config_lines=() java_options=()
parse_options() {
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1 wants a value"
        case $1 in
        --data) data=$2 ;;
        --port) port=$2 ;;
        --version) version=$2 ;;
        --cfg) config_lines+=("$2") ;;
        --myid) myid=$2 ;;
        --heap) heap=$2 ;;
        --java) java_options+=("$2") ;;
        *) fail "unknown option $1" ;;
        esac
        shift 2
    done
    [ -n "$data" ] || fail "--data is required"
}

write_config() {
    [ -n "$port" ] || fail "--port is required"
    mkdir -p "$data"
    data=$(cd "$data" && pwd)
    {
        printf '%s\n' tickTime=2000 initLimit=10 syncLimit=5 "dataDir=$data" "clientPort=$port" \
            clientPortAddress=127.0.0.1 '4lw.commands.whitelist=*' maxClientCnxns=0 \
            admin.enableServer=false
        # Properties files: the last of two equal keys wins.
        [ ${#config_lines[@]} -eq 0 ] || printf '%s\n' "${config_lines[@]}"
    } >"$data/zoo.cfg"
    [ -z "$myid" ] || printf '%s\n' "$myid" >"$data/myid"
}

run() {
    local class_path memory
    class_path=$(classpath "$version")
    if [ -n "$heap" ]; then
        memory=("-Xms$heap" "-Xmx$heap")
    else
        memory=(-Xmx256m -XX:+UseSerialGC)
    fi
    # UTF-8: digest credentials are decoded with the JVM's default charset.
    exec java "${memory[@]}" -Dfile.encoding=UTF-8 -Djava.awt.headless=true -Dzookeeper.jmx.log4j.disable=true \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
        "${java_options[@]}" -cp "$class_path" \
        org.apache.zookeeper.server.quorum.QuorumPeerMain "$data/zoo.cfg"
}

start() {
    if [ -f "$data/apache.pid" ] && is_running "$(cat "$data/apache.pid")"; then
        fail "pid $(cat "$data/apache.pid") already serves $data"
    fi
    run >"$data/apache.log" 2>&1 </dev/null &
    local pid=$!
    printf '%s\n' "$pid" >"$data/apache.pid"
    # A member of an ensemble serves only when its peers are there: the caller waits for it then.
    if [ -z "$myid" ] && ! wait_until_serving 127.0.0.1 "$port" 30 "$pid"; then
        tail -n 20 "$data/apache.log" >&2
        kill -9 "$pid" 2>/dev/null || true
        fail "no server on port $port"
    fi
    printf '%s\n' "$pid"
}

stop() {
    local pid
    [ -f "$data/apache.pid" ] || fail "no $data/apache.pid"
    pid=$(cat "$data/apache.pid")
    kill "$pid" 2>/dev/null || true
    if ! wait_until_ended "$pid" 10; then
        kill -9 "$pid" 2>/dev/null || true
        wait_until_ended "$pid" 10 || fail "pid $pid does not end"
    fi
    rm -f "$data/apache.pid"
}

[ $# -ge 1 ] || usage
command=$1
shift
case $command in
run | start)
    parse_options "$@"
    write_config
    "$command"
    ;;
stop)
    parse_options "$@"
    stop
    ;;
wait)
    [ $# -ge 1 ] || usage
    wait_until_serving "${1%:*}" "${1##*:}" "${2:-30}" || fail "no server on $1 within ${2:-30} s"
    ;;
classpath)
    [ $# -eq 1 ] || usage
    classpath "$1"
    ;;
*) usage ;;
esac
