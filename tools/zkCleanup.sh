#!/bin/sh
# zkCleanup.sh of Apache ZooKeeper, carried out by `ringkeeper purge`: same arguments, texts and exit codes.
#
#   zkCleanup.sh -n <count>     removes snapshots and logs that the <count> newest snapshots (3 or more) make superfluous
#
# Variables: ZOOCFGDIR, and ZOOCFG, the name of the configuration file in it, zoo.cfg by default.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper) || exit 1

if [ "$1" = "--config" ] && [ $# -gt 1 ]; then
  ZOOCFGDIR=$2
  shift 2
fi
read_environment
config=$ZOOCFGDIR/${ZOOCFG:-zoo.cfg}
[ -r "$config" ] || { echo "Error: the configuration file $config cannot be read." >&2; exit 1; }

value() { sed -n "s/^[[:space:]]*$1=//p" "$config" | sed -e 's/[[:space:]]*$//' | tail -n 1; }
data=$(value dataDir)
log=$(value dataLogDir)
exec "$program" purge ${log:+"$log"} "$data" "$@"
