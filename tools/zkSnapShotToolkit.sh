#!/bin/sh
# zkSnapShotToolkit.sh of Apache ZooKeeper, carried out by ringkeeper-snapshot: [-d] FILE. Same text, siblings in file order.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper-snapshot) || exit 1

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
