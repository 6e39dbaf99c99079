#!/bin/sh
# zkCli.sh of Apache ZooKeeper, carried out by ringkeeper-cli: same arguments, texts and exit codes.
#
#   zkCli.sh [--config <conf-dir>] [-server <host:port>[,<host:port>]*[/<chroot>]] [-timeout <ms>] [-r]
#            [-waitforconnection] [-client-configuration <file>] [--json] [<command> [<argument>...]]
#
# Variables: ZOOCFGDIR, and of CLIENT_JVMFLAGS and JVMFLAGS every -D that a client has a use for.
# <conf-dir>/zookeeper-env.sh and <conf-dir>/java.env may set them.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper-cli) || exit 1

if [ "$1" = "--config" ] && [ $# -gt 1 ]; then
  ZOOCFGDIR=$2
  shift 2
fi
read_environment

exec "$program" "$@"
