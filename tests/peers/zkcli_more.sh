#!/usr/bin/env bash
# Plays the transcripts of zkCli that need more of a server than the basic operations: containers,
# counts (getAllChildrenNumber, getEphemerals), persistent watches, quotas, whoami, the configuration
# node, and the refusal of nodes with a TTL where they are not enabled.
#
#   zkcli_more.sh [--client 3.8|3.9] [--rewrite] HOST:PORT
#
# Not among them, for it needs a server with extended types enabled: zkcli.sh HOST:PORT ttl
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$peers_source/zkcli.sh" "$@" container counts add_watch quota whoami config ttl_disabled
