#!/bin/sh
# What the scripts beside this one have in common, as in Apache ZooKeeper; each reads it in. It sets
#
#   here       the directory of the script, links followed
#
# and the functions below. A script that is moved takes this one along.

# Prints the path of a program of ringkeeper: beside the script, as a package installs it, as cargo builds it, or in PATH.
find_program() {
  for candidate in "$here/$1" "$here/../bin/$1" "$here/../target/release/$1"; do
    if [ -x "$candidate" ] && [ ! -d "$candidate" ]; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  command -v "$1" || {
    echo "Error: $1 could not be found beside $0, in ../bin, in ../target/release or in PATH." >&2
    return 1
  }
}

# Sets ZOOCFGDIR and ZOOCFG where they are not set, and reads <conf-dir>/zookeeper-env.sh and <conf-dir>/java.env. What these set
# need not be exported by them.
read_environment() {
  if [ -z "$ZOOCFGDIR" ]; then
    if [ -e "$here/../conf" ]; then
      ZOOCFGDIR=$here/../conf
    else
      ZOOCFGDIR=$here/../etc/zookeeper
    fi
  fi
  # The slash keeps `.` from searching PATH.
  case $ZOOCFGDIR in
    /*) environment=$ZOOCFGDIR ;;
    *) environment=./$ZOOCFGDIR ;;
  esac
  set -a
  if [ -f "$environment/zookeeper-env.sh" ]; then
    . "$environment/zookeeper-env.sh"
  fi
  if [ -f "$environment/java.env" ]; then
    . "$environment/java.env"
  fi
  set +a
}

self=$(readlink -f "$0" 2>/dev/null) || self=$0
here=$(cd "$(dirname "$self")" && pwd) || exit 1
