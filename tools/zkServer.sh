#!/bin/sh
# zkServer.sh of Apache ZooKeeper, carried out by ringkeeper: same arguments, variables, texts and exit codes.
#
#   zkServer.sh [--config <conf-dir>] {start|start-foreground|stop|version|restart|status|print-cmd} [<config-file>]
#
# Variables: ZOOCFGDIR, ZOOCFG, ZOO_LOG_DIR, ZOOPIDFILE, ZOO_DATADIR_AUTOCREATE_DISABLE, and of SERVER_JVMFLAGS and
# JVMFLAGS every -Dzookeeper.<key>=<value>. <conf-dir>/zookeeper-env.sh and <conf-dir>/java.env may set them.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper) || exit 1

if [ "$1" = "--config" ] && [ $# -gt 1 ]; then
  ZOOCFGDIR=$2
  shift 2
fi
read_environment
export ZOOCFGDIR
ZOO_LOG_DIR=${ZOO_LOG_DIR:-$here/../logs}
export ZOO_LOG_DIR

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
