#!/usr/bin/env bash
# Runs the tests of Apache's own build that a client could make, on the built ringkeeper in the place of Apache's server.
#
#   java_tests.sh              all classes that java_tests/classes.txt says to run
#   java_tests.sh CLASS...     some, named as in that file, such as test.StatTest
#
# The tests are Debian's source package of ZooKeeper 3.8.0 (install.sh fetches it), and so are not changed. Each starts its
# server by `new ZooKeeperServer` and `ServerCnxnFactory`; java_tests/peers/ExternalServer.java is such a factory, named by a
# property that Apache offers, and starts the program of $RINGKEEPER, by default what `cargo build` makes. What a class
# prints is in $PEERS_DIR/java-tests/log.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}
own=$peers_source/java_tests
program=$(realpath "${RINGKEEPER:-${CARGO_TARGET_DIR:-$peers_source/../../target}/debug/ringkeeper}")
sources=$peers_dir/zookeeper-source/zookeeper-server/src/test/java
package=org.apache.zookeeper
work=$peers_dir/java-tests
# Processes at once; a test waits more than it works.
jobs=3

class_path=$("$peers_source/apache.sh" classpath 3.8)
for jar in netty-handler commons-io hamcrest junit4 junit-jupiter-api junit-jupiter-engine junit-jupiter-params \
    junit-platform-commons junit-platform-engine junit-platform-launcher opentest4j apiguardian-api; do
    class_path+=:/usr/share/java/$jar.jar
done

# One class, in a directory of its own. xargs calls it, with its place among those that run at once in $slot.
if [ "${1:-}" = --one ]; then
    directory=$work/$2
    rm -rf "$directory"
    mkdir -p "$directory"
    cd "$directory"
    code=0
    mapfile -t options < <(awk -v class="$2" '$1 == "run" && $2 == class { for (i = 3; i <= NF; i++) print $i }' \
        "$own/classes.txt")
    timeout 240 java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx300m -Dorg.slf4j.simpleLogger.defaultLogLevel=off \
        -Dtest.junit.threads=$jobs -Dzookeeper.junit.threadid=$((slot + 1)) \
        -Dbuild.test.dir="$directory/build" -Dzookeeper.serverCnxnFactory=peers.ExternalServer \
        -Dpeers.server="$program" -Dpeers.output="$directory/server.log" "${options[@]}" -cp "$work/classes:$class_path" \
        peers.RunTests "$work/skips" "$package.$2" >"$work/log/$2" 2>&1 || code=$?
    echo "$2: $(tail -n 1 "$work/log/$2")"
    [ $code -ne 0 ] || rm -rf "$directory"
    exit $((code != 0))
fi

# Every class that is there is named, so that a new version's new tests are looked at.
there=$(cd "$sources/org/apache/zookeeper" && printf '%s\n' *Test.java test/*Test.java | sed 's/\.java$//; s/\//./' | sort)
named=$(awk '$1 == "run" || $1 == "not" { print $2 }' "$own/classes.txt" | grep -v '^server\.' | sort)
if [ "$there" != "$named" ]; then
    echo "java_tests/classes.txt names other classes (>) than there are (<):"
    diff <(printf '%s\n' "$there") <(printf '%s\n' "$named") || true
    exit 1
fi
awk '$1 == "not" && NF < 3 { print "no reason for " $2; bad = 1 } END { exit bad }' "$own/classes.txt"

mapfile -t classes < <(awk '$1 == "run" { print $2 }' "$own/classes.txt")
files=()
for class in "${classes[@]}"; do
    files+=("$sources/org/apache/zookeeper/${class//.//}.java")
done
[ $# -eq 0 ] || classes=("$@")
rm -rf "$work"
mkdir -p "$work/classes" "$work/log"
sed "/^#/d; /^$/d; s/^/$package./" "$own/skips.txt" >"$work/skips"
javac -nowarn -proc:none -d "$work/classes" -cp "$class_path" -sourcepath "$own:$sources" "$own"/peers/*.java "${files[@]}" \
    >"$work/log/javac" 2>&1 || {
    cat "$work/log/javac"
    exit 1
}
failed=0
printf '%s\n' "${classes[@]}" | xargs -P $jobs -n 1 --process-slot-var=slot "${BASH_SOURCE[0]}" --one || failed=1
cd "$work/log"
grep -h -A 20 '^FAILED' "${classes[@]}" | grep -v '^\sat \(org.junit\|java.base\|jdk\)' || true
echo "java tests: $(grep -h '^passed' "${classes[@]}" | wc -l) passed, $(grep -h '^FAILED' "${classes[@]}" | wc -l) failed," \
    "$(grep -h '^skipped' "${classes[@]}" | wc -l) skipped, of ${#classes[@]} classes"
exit $failed
