#!/bin/sh
# zkCli.sh of Apache ZooKeeper, carried out by ringkeeper-cli: same arguments, texts and exit codes.
#
#   zkCli.sh [--config <conf-dir>] [-server <host:port>[,<host:port>]*[/<chroot>]] [-timeout <ms>] [-r]
#            [-waitforconnection] [-client-configuration <file>] [--json] [<command> [<argument>...]]
#
# Variables: ZOOCFGDIR, and of CLIENT_JVMFLAGS and JVMFLAGS every -D that a client has a use for.
# <conf-dir>/zookeeper-env.sh and <conf-dir>/java.env may set them.

self=$(readlink -f "$0" 2>/dev/null) || self=$0
here=$(cd "$(dirname "$self")" && pwd) || exit 1

program=
for candidate in "$here/ringkeeper-cli" "$here/../bin/ringkeeper-cli" "$here/../target/release/ringkeeper-cli"; do
  if [ -x "$candidate" ] && [ ! -d "$candidate" ]; then
    program=$candidate
    break
  fi
done
if [ -z "$program" ]; then
  program=$(command -v ringkeeper-cli) || {
    echo "Error: ringkeeper-cli could not be found beside $0, in ../bin, in ../target/release or in PATH." >&2
    exit 1
  }
fi

if [ "$1" = "--config" ] && [ $# -gt 1 ]; then
  ZOOCFGDIR=$2
  shift 2
fi
if [ -z "$ZOOCFGDIR" ]; then
  if [ -e "$here/../conf" ]; then
    ZOOCFGDIR=$here/../conf
  else
    ZOOCFGDIR=$here/../etc/zookeeper
  fi
fi

# What these files set need not be exported by them. The slash keeps `.` from searching PATH.
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

exec "$program" "$@"
