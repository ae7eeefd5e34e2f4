#!/bin/sh
# Makes a cluster of the Redis servers in NODES, each primary with a replica, and keeps it together:
# containers have other addresses after a restart, and nodes that all moved at once would not find
# each other. docker-compose.cluster.yml runs it beside the nodes.
#
#   NODES                     the names of the servers, primaries first
#   OPERATOR_PASSWORD_FILE    the password of the user `operator`, which the servers make
#   CLI_OPTIONS               more options for redis-cli, such as those for TLS
set -eu

PORT=6379
# Seconds between two inspections.
PAUSE=2

# Runs redis-cli as the operator.
cli() { # ARGUMENTS...
  # shellcheck disable=SC2086 # several options
  REDISCLI_AUTH=$(cat "$OPERATOR_PASSWORD_FILE") redis-cli --user operator ${CLI_OPTIONS:-} "$@"
}

on() { # NODE COMMAND...
  node=$1
  shift
  cli -e -h "$node" -p $PORT "$@" 2>/dev/null
}

# Sets `addresses`. Fails while a node has none, because its container does not run.
find_addresses() {
  addresses=
  for name in $NODES; do
    address=$(getent hosts "$name" | cut -d ' ' -f 1)
    [ -n "$address" ] || return 1
    addresses="$addresses $address"
  done
}

# Whether all nodes answer, and none has slots.
is_new() {
  for name in $NODES; do
    on "$name" cluster info | grep -q '^cluster_slots_assigned:0' || return 1
  done
}

create() {
  endpoints=
  for address in $addresses; do
    endpoints="$endpoints $address:$PORT"
  done
  # shellcheck disable=SC2086 # several addresses
  cli --cluster create $endpoints --cluster-replicas 1 --cluster-yes
}

# Introduces nodes to those that do not know them, or know another address of theirs.
introduce() {
  for name in $NODES; do
    known=$(on "$name" cluster nodes) || continue
    for address in $addresses; do
      echo "$known" | grep -F " $address:$PORT@" | grep -q ' connected' && continue
      echo "$name meets $address"
      on "$name" cluster meet "$address" $PORT || true
    done
  done
}

trap 'exit 0' TERM INT
while :; do
  if find_addresses; then
    if is_new; then create || true; else introduce; fi
  fi
  sleep $PAUSE &
  wait $!
done
