#!/usr/bin/env bash
# Apache 3.9 and the built ringkeeper, started side by side, are asked the same; what they answer must be equal.
#
#   differential.sh                  the regressions, the mistakes that the comparison must find, and generated scripts: a
#                                    fixed range and some fresh ones, more than 200,000 requests
#   differential.sh --seeds 0..100000 --fresh 0       longer
#   differential.sh --replay FILE... [--show]         scripts, such as tests/differential/regressions/*.txt
#
# Options go to the runner, tests/differential/runner.rs: --help prints them. Both servers are new and have their data
# under target/tmp; neither waits for flushes. APACHE_AGAIN=1 puts a second Apache in the place of ringkeeper: a
# difference is then a mistake of the runner.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$peers_source/../.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
. "$peers_source/process.sh"
runner=$target/debug/examples/differential
# What the runner's own session authenticates with is super:admin.
super=super:xQJmxLMiHGwaqBvst5y6rkB6HQs=
mistakes=(version error time owner pzxid no-event late-event name null stays-open timeout trailing)

cargo build --quiet --example differential --bin ringkeeper
mkdir -p "$target/tmp"
directory=$(mktemp -d "$target/tmp/differential.XXXXXX")
left='' right=''
at_exit() {
    local code=$?
    [ -z "$left" ] || "$peers_source/apache.sh" stop --data "$directory/apache" || code=1
    case $right in
    apache) "$peers_source/apache.sh" stop --data "$directory/again" || code=1 ;;
    ringkeeper) "$peers_source/ringkeeper.sh" stop "$directory/zoo.cfg" || code=1 ;;
    esac
    if [ $code -eq 0 ]; then rm -rf "$directory"; else echo "logs are in $directory"; fi
    exit $code
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_apache() {
    "$peers_source/apache.sh" start --data "$1" --port "$2" --heap 1g --cfg forceSync=no \
        --java "-Dzookeeper.DigestAuthenticationProvider.superDigest=$super" >/dev/null
}

free_port && left=127.0.0.1:$port
start_apache "$directory/apache" "${left##*:}"
free_port && address=127.0.0.1:$port
if [ -n "${APACHE_AGAIN:-}" ]; then
    start_apache "$directory/again" "${address##*:}"
    right=apache
else
    printf '%s\n' tickTime=2000 "dataDir=$directory/data" "clientPort=${address##*:}" clientPortAddress=127.0.0.1 \
        maxClientCnxns=0 forceSync=no '4lw.commands.whitelist=*' \
        "DigestAuthenticationProvider.superDigest=$super" >"$directory/zoo.cfg"
    "$peers_source/ringkeeper.sh" start "$directory/zoo.cfg" >/dev/null
    right=ringkeeper
fi

compare() { "$runner" --left "$left" --right "$address" "$@"; }

if [ $# -gt 0 ]; then
    compare "$@"
    exit
fi
# On new servers, for one of them looks at what those have.
compare --replay "$repo"/tests/differential/regressions/*.txt
for mistake in "${mistakes[@]}"; do
    code=0
    compare --seeds 0..300 --fresh 0 --plant "$mistake" >"$directory/planted" || code=$?
    # 1 is a difference; anything else is none, or no comparison at all.
    if [ $code -ne 1 ]; then
        cat "$directory/planted"
        echo "differential: the planted mistake $mistake was not found"
        exit 1
    fi
done
echo "${#mistakes[@]} planted mistakes, all found"
compare --seeds 0..6000 --fresh 300 --requests-min 200000
