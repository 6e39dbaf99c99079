#!/usr/bin/env bash
# Reads logs with Apache's TxnLogToolkit and with ringkeeper-log: both have to say the same, of logs that Apache wrote,
# and of logs of ringkeeper that were converted, which Apache has to read without complaint. Reads snapshots with Apache's
# SnapshotFormatter, SnapshotRecursiveSummary and SnapshotComparer, and with the scripts in tools/ that bear their names.
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

# Our scripts, away from programs of an earlier release build.
cp "$repo"/tools/*.sh "$directory"
PATH=$(dirname "$tool"):$PATH
apache() {
    java -Xmx256m -Dfile.encoding=UTF-8 -Dsun.stdout.encoding=UTF-8 -Dorg.slf4j.simpleLogger.defaultLogLevel=off \
        -cp "$class_path" "$@" 2>/dev/null
}
# What takes time, and what is this release's own, is evened out.
untimed() { sed -E 's/ in [0-9.]+ seconds//' "$@"; }

# Snapshots, compressed and not: the same blocks of text; Java's hash maps give them another order.
blocks() { awk 'BEGIN { RS = "----\n" } { gsub("\n", "\1"); print }' "$1" | sort; }
for method in none gz snappy; do
    mkdir "$directory/$method"
    for snapshot in "$repo/tests/golden/apache-$version"/snapshot.*; do
        "$(dirname "$tool")/ringkeeper-snapshot" convert --compression $method -o "$directory/$method" "$snapshot" >/dev/null
    done
    for snapshot in "$directory/$method"/snapshot.*; do
        apache org.apache.zookeeper.server.SnapshotFormatter -d "$snapshot" >"$directory/apache"
        "$directory/zkSnapShotToolkit.sh" -d "$snapshot" >"$directory/ours"
        # 3.9 adds a line with the digest; the sessions stand in another order too.
        diff <(blocks "$directory/apache" | sed 's/Target zxid digest[^\x01]*\x01//' | tr '\001' '\n' | sort) \
            <(blocks "$directory/ours" | tr '\001' '\n' | sort)
        printf '%s: %s\n' "$(basename "$snapshot")" "$(head -n 1 "$directory/ours")"
    done
done
# The form of each release is read by this one.
for form in 3.5 3.6 3.9; do
    mkdir "$directory/form-$form"
    "$(dirname "$tool")/ringkeeper-snapshot" convert --form $form -o "$directory/form-$form" \
        "$repo/tests/golden/apache-$version/snapshot.3b" >/dev/null
    apache org.apache.zookeeper.server.SnapshotFormatter "$directory/form-$form/snapshot.3b" | head -n 1 |
        diff - <("$directory/zkSnapShotToolkit.sh" "$directory/form-$form/snapshot.3b" | head -n 1)
done

one=$repo/tests/golden/apache-$version/snapshot.0 other=$directory/none/snapshot.3b
# 3.8 has no recursive summary. Siblings stand in another order.
if [ "$version" != 3.8 ]; then
    for place in '/ 0' '/ 2' '/zookeeper 5' '/seq 1'; do
        # shellcheck disable=SC2086
        diff <(apache org.apache.zookeeper.server.SnapshotRecursiveSummary "$other" $place | paste - - - | sort) \
            <("$directory/zkSnapshotRecursiveSummaryToolkit.sh" "$other" $place | paste - - - | sort)
    done
    printf 'the recursive summary is the same\n'
fi
compared() {
    diff <(printf "$1" | apache org.apache.zookeeper.server.SnapshotComparer "${@:2}" | untimed) \
        <(printf "$1" | "$directory/zkSnapshotComparer.sh" "${@:2}" | untimed)
}
for thresholds in '0 0' '9 1' '900 3' '100000 100000'; do
    read -r bytes nodes <<<"$thresholds"
    compared '' -l "$one" -r "$other" -b "$bytes" -n "$nodes"
    compared '' -l "$other" -r "$one" -b "$bytes" -n "$nodes" -d
    compared '\n9\nx\n/a\n/nowhere\n1\n/a/b\n5\n\n\n\n' -l "$one" -r "$other" -b "$bytes" -n "$nodes" -i
done
printf 'comparing says the same\n'

# Cleaning up: the same of Apache's files goes, with the same words; and so does usage.
for n in 1 2 3 4 5; do
    for side in apache ours; do
        mkdir -p "$directory/purge-$side/version-2"
        cp "$other" "$directory/purge-$side/version-2/snapshot.${n}0"
        cp "$repo/tests/golden/apache-$version/log.1" "$directory/purge-$side/version-2/log.${n}1"
        touch -d '2026-01-02 03:04:05' "$directory/purge-$side/version-2"/*
    done
done
for words in '' '-n 2' '-n x' '-n 3' '-n 3'; do
    # shellcheck disable=SC2086
    apache org.apache.zookeeper.server.PurgeTxnLog "$directory/purge-apache" $words >"$directory/apache" && code=0 || code=$?
    printf 'dataDir=%s\n' "$directory/purge-ours" >"$directory/zoo.cfg"
    # shellcheck disable=SC2086
    ZOOCFGDIR=$directory "$directory/zkCleanup.sh" $words >"$directory/ours" 2>/dev/null && ours=0 || ours=$?
    [ "$code" = "$ours" ] || { echo "zkCleanup.sh $words: exit code $ours, and Apache's is $code"; exit 1; }
    # Java may put a narrow space before AM.
    diff <(sed 's/\xe2\x80\xaf/ /; s/purge-apache/purge/' "$directory/apache" | sort) <(sed 's/purge-ours/purge/' "$directory/ours" | sort)
    diff <(ls "$directory/purge-apache/version-2") <(ls "$directory/purge-ours/version-2")
done
printf 'cleaning up leaves the same: %s\n' "$(ls "$directory/purge-ours/version-2" | tr '\n' ' ')"
