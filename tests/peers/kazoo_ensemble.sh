#!/usr/bin/env bash
# Runs those of kazoo's own tests that need an ensemble: a server of three that goes, reconfigurations, reads without a quorum.
#
#   kazoo_ensemble.sh
#
# It starts three built servers, new and on ports of their own. kazoo_suite/skips.txt says which tests these are.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$peers_source/../../target}
. "$peers_source/process.sh"

mkdir -p "$target/tmp"
directory=$(mktemp -d "$target/tmp/kazoo.XXXXXX")
ports=()
at_exit() {
    local code=$? port
    for port in "${ports[@]}"; do
        [ ! -f "$directory/$port/ringkeeper.pid" ] || "$peers_source/ringkeeper.sh" stop "$directory/$port/zoo.cfg" || code=1
    done
    if [ $code -eq 0 ]; then rm -rf "$directory"; else echo "logs are in $directory"; fi
    exit $code
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

lines=()
for id in 1 2 3; do
    free_port && quorum=$port
    free_port && election=$port
    free_port
    ports+=("$port")
    lines+=("server.$id=127.0.0.1:$quorum:$election:participant;127.0.0.1:$port")
done
# What kazoo's own harness sets: its super user is super:test.
id=0
for port in "${ports[@]}"; do
    id=$((id + 1))
    mkdir -p "$directory/$port/data"
    echo $id >"$directory/$port/data/myid"
    printf '%s\n' tickTime=2000 initLimit=10 syncLimit=5 "dataDir=$directory/$port/data" "clientPort=$port" \
        clientPortAddress=127.0.0.1 maxClientCnxns=0 '4lw.commands.whitelist=*' admin.enableServer=false reconfigEnabled=true \
        readonlymode.enabled=true 'DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=' \
        "${lines[@]}" >"$directory/$port/zoo.cfg"
done
# Each answers clients once there is a quorum.
started=()
for port in "${ports[@]}"; do
    "$peers_source/ringkeeper.sh" start "$directory/$port/zoo.cfg" >/dev/null &
    started+=($!)
done
for pid in "${started[@]}"; do
    wait "$pid"
done

servers=$(printf ',127.0.0.1:%s' "${ports[@]}")
control() { printf 'CLIENT_PORT=${SERVER##*:} %q %s %q/${SERVER##*:}/zoo.cfg' "$peers_source/ringkeeper.sh" "$1" "$directory"; }
"$peers_source/kazoo.sh" --stop "$(control stop)" --start "$(control start)" --has ensemble --has reconfig --has read-only \
    "${servers#,}" -k 'TestReconfig or test_update_host_list or TestReadOnlyMode'
