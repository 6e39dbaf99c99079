#!/bin/sh
# zkSnapShotToolkit.sh of Apache ZooKeeper, carried out by ringkeeper-snapshot: [-d] FILE. Same text, siblings in file order.

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

usage() {
  echo "USAGE: SnapshotFormatter [-d|-json] snapshot_file" >&2
  echo "       -d dump the data for each znode" >&2
  echo "       -json dump znode info in json format" >&2
  exit 2
}

data=
case $1 in
  -d) data=-d; shift ;;
  -json) echo "Error: -json is not there: see ringkeeper-snapshot dump --json." >&2; exit 2 ;;
esac
[ $# -eq 1 ] || usage
[ -e "$1" ] || { echo "File '$1' does not exist." >&2; exit 2; }
exec "$program" dump --apache $data "$1"
