#!/bin/sh
# zkSnapshotRecursiveSummaryToolkit.sh of Apache ZooKeeper, carried out by ringkeeper-snapshot: FILE ZNODE DEPTH.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper-snapshot) || exit 1

[ $# -eq 3 ] || {
  echo "USAGE: SnapshotRecursiveSummary  <snapshot_file>  <starting_node>  <max_depth>" >&2
  exit 2
}
exec "$program" summary --apache --path "$2" --depth "$3" "$1"
