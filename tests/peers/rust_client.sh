#!/usr/bin/env bash
# Runs the tests in rust_client/, of crates.io's zookeeper-client, against a running server.
#
#   rust_client.sh [--has NEED]... HOST:PORT [TEST...]
#
#   --has NEED   also run the tests that need more than the basic operations of the server:
#                add-watch, counts (getAllChildrenNumber, getEphemerals), multi-read, whoami
#   TEST         words; only tests with one of them in their name run
#
# The first run builds the crate, in $PEERS_DIR/rust_client_target, which takes a minute.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}

has=()
while [ "${1:-}" = --has ] && [ $# -ge 2 ]; do
    has+=(--has "$2")
    shift 2
done
if [ $# -lt 1 ]; then
    sed -n '2,/^set -euo/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

export CARGO_TARGET_DIR=$peers_dir/rust_client_target
cargo build --quiet --locked --manifest-path "$peers_source/rust_client/Cargo.toml"
"$peers_source/apache.sh" wait "$1" 10
# A failed test tells what it expected; where its thread came from is no help.
RUST_BACKTRACE=0 exec "$CARGO_TARGET_DIR/debug/rust_client" "$1" "${has[@]}" "${@:2}"
