#!/usr/bin/env bash
# Reads logs with Apache's TxnLogToolkit and with ringkeeper-log: both have to say the same, of logs that Apache wrote,
# and of logs of ringkeeper that were converted, which Apache has to read without complaint.
#
#   logs.sh 3.8|3.9 [DIR]     DIR holds logs of ringkeeper, more than those of the tests
#
# 3.8 writes createTtl where 3.9 writes createTTL; that is evened out.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$peers_source/../.." && pwd)
[ $# -ge 1 ] || {
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
}
version=$1
tool=$(dirname "${RINGKEEPER:-$repo/target/debug/ringkeeper}")/ringkeeper-log
class_path=$("$peers_source/apache.sh" classpath "$version")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
export TZ=UTC

compare() {
    java -Xmx256m -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$class_path" \
        org.apache.zookeeper.server.persistence.TxnLogToolkit "$1" 2>"$directory/complaints" |
        sed 's/ createTtl / createTTL /' >"$directory/apache" || {
        cat "$directory/complaints"
        return 1
    }
    # The logger's words about itself are no complaint.
    if grep -v -e SLF4J -e StatusLogger "$directory/complaints"; then return 1; fi
    "$tool" dump --apache "$1" >"$directory/ours"
    diff --text "$directory/apache" "$directory/ours" || return 1
    printf '%s: %s\n' "$(basename "$1")" "$(tail -n 1 "$directory/ours")"
}

for log in "$repo/tests/golden/apache-$version"/log.*; do
    compare "$log"
done
# There and back: the bytes of each record are the same.
"$tool" convert --to native --output "$directory/native" "$repo/tests/golden/apache-$version" >/dev/null
"$tool" convert --to apache --output "$directory/back" "$directory/native" >/dev/null
compare "$directory"/back/log.1
cat "$repo/tests/golden/apache-$version"/log.1 <(tail -c +17 "$repo/tests/golden/apache-$version"/log.3c) |
    cmp - "$directory/back/log.1"
if [ $# -gt 1 ]; then
    "$tool" verify "$2" | tail -n 1
    "$tool" convert --to apache --output "$directory/converted" "$2" >/dev/null
    for log in "$directory"/converted/log.*; do
        compare "$log"
    done
fi

# Snapshots: the same blocks of text; Java's hash maps give them another order.
blocks() { awk 'BEGIN { RS = "----\n" } { gsub("\n", "\1"); print }' "$1" | sort; }
for snapshot in "$repo/tests/golden/apache-$version"/snapshot.*; do
    java -Xmx256m -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
        -cp "$class_path" org.apache.zookeeper.server.SnapshotFormatter -d "$snapshot" >"$directory/apache" 2>/dev/null
    "$(dirname "$tool")/ringkeeper-snapshot" dump --apache -d "$snapshot" >"$directory/ours"
    # 3.9 adds a line with the digest; the sessions stand in another order too.
    diff <(blocks "$directory/apache" | sed 's/Target zxid digest[^\x01]*\x01//' | tr '\001' '\n' | sort) \
        <(blocks "$directory/ours" | tr '\001' '\n' | sort)
    printf '%s: %s\n' "$(basename "$snapshot")" "$(head -n 1 "$directory/ours")"
done
