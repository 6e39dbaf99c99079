#!/bin/sh
# zkTxnLogToolkit.sh of Apache ZooKeeper, carried out by ringkeeper-log: same arguments, same text of a dump.
#
#   zkTxnLogToolkit.sh [-d] LOG               prints every transaction
#   zkTxnLogToolkit.sh -r [-v] [-y] LOG       writes LOG.fixed, with the checksums that fit the bytes
#   zkTxnLogToolkit.sh -c -z ZXID LOG         writes LOG.chopped<ZXID in decimal>, up to that transaction
#
# LOG may be one of ringkeeper's too; what is written is one of Apache's.

. "$(dirname "$(readlink -f "$0")")/zkEnv.sh" || exit 1
program=$(find_program ringkeeper-log) || exit 1

usage() {
  cat <<'END'
usage: TxnLogToolkit [-dhrvc] <txn_log_file_name> (-z <zxid>)
 -c,--chop         Chop mode. Chop txn file to a zxid.
 -d,--dump         Dump mode. Dump all entries of the log file with printing the content of a nodepath (default)
 -h,--help         Print help message
 -r,--recover      Recovery mode. Re-calculate CRC for broken entries.
 -v,--verbose      Be verbose in recovery mode: print all entries, not just fixed ones.
 -y,--yes          Non-interactive mode: repair all CRC errors without asking
 -z,--zxid <arg>   Used with chop. Zxid to which to chop.
END
}

chop= recover= yes= verbose= zxid= file=
while [ $# -gt 0 ]; do
  case $1 in
    -z | --zxid)
      [ $# -gt 1 ] || { printf 'Missing argument for option: z\n\n' >&2; usage; exit 1; }
      zxid=$2
      shift
      ;;
    --chop) chop=1 ;;
    --dump) ;;
    --help) usage; exit 0 ;;
    --recover) recover=1 ;;
    --verbose) verbose=1 ;;
    --yes) yes=--yes ;;
    -[!-]*)
      letters=${1#-}
      while [ -n "$letters" ]; do
        rest=${letters#?}
        case ${letters%"$rest"} in
          c) chop=1 ;;
          d) ;;
          h) usage; exit 0 ;;
          r) recover=1 ;;
          v) verbose=1 ;;
          y) yes=--yes ;;
          *) printf 'Unrecognized option: %s\n\n' "$1" >&2; usage; exit 1 ;;
        esac
        letters=$rest
      done
      ;;
    -*) printf 'Unrecognized option: %s\n\n' "$1" >&2; usage; exit 1 ;;
    *) [ -n "$file" ] || file=$1 ;;
  esac
  shift
done

[ -n "$file" ] || { usage; exit 1; }
[ -r "$file" ] || { echo "File doesn't exist or not readable: $file" >&2; exit 1; }

if [ -n "$chop" ] && [ -n "$zxid" ]; then
  exec "$program" convert --to apache --until "$zxid" --output "$file.chopped$(($zxid))" "$file"
fi
if [ -n "$recover" ]; then
  [ ! -e "$file.fixed" ] || { echo "Recovery file $file.fixed already exists or not writable" >&2; exit 1; }
  cp "$file" "$file.fixed" || exit 1
  [ -z "$verbose" ] || "$program" dump --apache --beyond "$file"
  "$program" repair $yes --trust-bytes "$file.fixed" && echo "Recovery file $file.fixed has been written"
  exit
fi
exec "$program" dump --apache "$file"
