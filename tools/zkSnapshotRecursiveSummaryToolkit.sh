#!/bin/sh
# zkSnapshotRecursiveSummaryToolkit.sh of Apache ZooKeeper, carried out by ringkeeper-snapshot: FILE ZNODE DEPTH.

self=$(readlink -f "$0" 2>/dev/null) || self=$0
here=$(cd "$(dirname "$self")" && pwd) || exit 1
program=
for candidate in "$here/ringkeeper-snapshot" "$here/../bin/ringkeeper-snapshot" \
  "$here/../target/release/ringkeeper-snapshot"; do
  if [ -x "$candidate" ] && [ ! -d "$candidate" ]; then
    program=$candidate
    break
  fi
done
if [ -z "$program" ]; then
  program=$(command -v ringkeeper-snapshot) || {
    echo "Error: ringkeeper-snapshot could not be found beside $0, in ../bin, in ../target/release or in PATH." >&2
    exit 1
  }
fi

[ $# -eq 3 ] || {
  echo "USAGE: SnapshotRecursiveSummary  <snapshot_file>  <starting_node>  <max_depth>" >&2
  exit 2
}
exec "$program" summary --apache --path "$2" --depth "$3" "$1"
