#!/usr/bin/env bash
# Runs Curator's recipes, with Apache's Java client below them, against a running server.
#
#   curator.sh [--client 3.8|3.9] [--has add-watch] [--has ttl] HOST:PORT [TEST...]
#
#   --client         3.8: Debian's Curator 5.4 with ZooKeeper's client 3.8.0 (the default);
#                    3.9: Curator 5.9 with the client 3.9.5
#   --has add-watch  also run what is built on persistent watches (addWatch): CuratorCache, ...
#   --has ttl        and on times to live (extendedTypesEnabled, and containers looked at every second): PersistentTtlNode
#   TEST             words; only tests with one of them in their name run
#
# The programs in curator/ are compiled first, which takes some two seconds.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}

client=3.8 has=()
while [ $# -ge 2 ]; do
    case $1 in
    --client) client=$2 ;;
    --has) has+=(--has "$2") ;;
    *) break ;;
    esac
    shift 2
done
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

class_path=$("$peers_source/apache.sh" classpath "$client")
if [ "$client" = 3.8 ]; then
    for jar in curator-client curator-framework curator-recipes guava; do
        class_path+=:/usr/share/java/$jar.jar
    done
fi

classes=$peers_dir/curator-classes/$client
rm -rf "$classes"
mkdir -p "$classes"
javac -Xlint:all,-processing,-classfile,-path,-try -d "$classes" -cp "$class_path" "$peers_source"/curator/*.java

"$peers_source/apache.sh" wait "$1" 10
# Lost connections, which some tests cause, fill the log with warnings.
log=$peers_dir/curator-$client.log
if ! java -Xmx256m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -cp "$classes:$class_path" Suite "$1" "${has[@]}" "${@:2}" 2>"$log"; then
    echo "curator: the clients' log is $log"
    exit 1
fi
