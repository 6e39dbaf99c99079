#!/bin/sh
# zkServer.sh of Apache ZooKeeper, carried out by ringkeeper: same arguments, variables, texts and exit codes.
#
#   zkServer.sh [--config <conf-dir>] {start|start-foreground|stop|version|restart|status|print-cmd} [<config-file>]
#
# Variables: ZOOCFGDIR, ZOOCFG, ZOO_LOG_DIR, ZOOPIDFILE, ZOO_DATADIR_AUTOCREATE_DISABLE, and of SERVER_JVMFLAGS and
# JVMFLAGS every -Dzookeeper.<key>=<value>. <conf-dir>/zookeeper-env.sh and <conf-dir>/java.env may set them.

self=$(readlink -f "$0" 2>/dev/null) || self=$0
here=$(cd "$(dirname "$self")" && pwd) || exit 1

program=
for candidate in "$here/ringkeeper" "$here/../bin/ringkeeper" "$here/../target/release/ringkeeper"; do
  if [ -x "$candidate" ] && [ ! -d "$candidate" ]; then
    program=$candidate
    break
  fi
done
if [ -z "$program" ]; then
  program=$(command -v ringkeeper) || {
    echo "Error: ringkeeper could not be found beside $0, in ../bin, in ../target/release or in PATH." >&2
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
ZOO_LOG_DIR=${ZOO_LOG_DIR:-$here/../logs}
set +a
export ZOOCFGDIR

case $1 in
  start | start-foreground | stop | version | restart | status | print-cmd)
    if [ -n "$2" ]; then
      exec "$program" "$1" "$2"
    fi
    exec "$program" "$1"
    ;;
  *)
    # Exit code 0, as ever.
    echo "Usage: $0 [--config <conf-dir>] {start|start-foreground|stop|version|restart|status|print-cmd}" >&2
    ;;
esac
