#!/bin/sh
# zkSnapshotComparer.sh of Apache ZooKeeper, carried out by ringkeeper-snapshot: same arguments and text.
#
#   zkSnapshotComparer.sh -l LEFT -r RIGHT -b BYTES -n NODES [-d] [-i]

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper-snapshot) || exit 1

usage() {
  cat <<'END'
usage: zkSnapshotComparer.sh
 -b,--bytes <BYTETHRESHOLD>   (Required) The node data delta size threshold, in bytes, for printing the node.
 -d,--debug                   Use debug output.
 -i,--interactive             Enter interactive mode.
 -l,--left <LEFT>             (Required) The left snapshot file.
 -n,--nodes <NODETHRESHOLD>   (Required) The descendant node delta size threshold, in nodes, for printing the node.
 -r,--right <RIGHT>           (Required) The right snapshot file.
END
  exit 2
}

left= right= bytes= nodes= debug= interactive=
while [ $# -gt 0 ]; do
  case $1 in
    -d | --debug) debug=--debug; shift; continue ;;
    -i | --interactive) interactive=--interactive; shift; continue ;;
    -[lrbn] | --left | --right | --bytes | --nodes) ;;
    *) echo "Unrecognized option: $1" >&2; usage ;;
  esac
  [ $# -gt 1 ] || { echo "Missing argument for option: ${1##*-}" >&2; usage; }
  case $1 in
    -l | --left) left=$2 ;;
    -r | --right) right=$2 ;;
    -b | --bytes) bytes=$2 ;;
    -n | --nodes) nodes=$2 ;;
  esac
  shift 2
done
missing=
[ -n "$left" ] || missing="$missing, l"
[ -n "$right" ] || missing="$missing, r"
[ -n "$bytes" ] || missing="$missing, b"
[ -n "$nodes" ] || missing="$missing, n"
[ -z "$missing" ] || { echo "Missing required options: ${missing#, }" >&2; usage; }

"$program" compare --apache --bytes "$bytes" --nodes "$nodes" $debug $interactive "$left" "$right"
code=$?
# Apache's says with its text alone that something differs.
[ "$code" -eq 1 ] && exit 0
exit "$code"
