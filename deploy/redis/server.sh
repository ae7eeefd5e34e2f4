#!/bin/sh
# Makes the users of a Redis server of the Compose project, and runs it. docker-compose.yml starts one
# server with it, docker-compose.cluster.yml six.
#
#   REDIS_PREFIX              what the farm's keys begin with
#   MAXMEMORY                 the server's limit of memory
#   OPERATOR_PASSWORD_FILE    where the operator's password is, or is made
#
# `execution` does what the programs do with the farm's keys; they read its password from a volume that
# nobody else has. `operator` is for people, and for the servers of a cluster among themselves. Whoever
# else is in the network, a browser that was taken over included, may do nothing.
#
# `default` is off, but must keep all rights: when Redis reads its append-only file, it drops every
# transaction that `default` may not run (https://github.com/redis/redis/issues/14541).
set -eu

PROGRAMS_PASSWORD_FILE=/run/redis-access/password
PREFIX=${REDIS_PREFIX:-exec:}

# Makes a password, unless there is one. Of servers that start together, one makes it.
secret() { # FILE
  [ -s "$1" ] && return
  new=$1.$HOSTNAME
  head -c 32 /dev/urandom | sha256sum | cut -c 1-64 >"$new"
  ln "$new" "$1" 2>/dev/null || [ -s "$1" ]
  rm "$new"
}

hash() { # FILE
  tr -d '\n' <"$1" | sha256sum | cut -c 1-64
}

secret "$PROGRAMS_PASSWORD_FILE"
umask 077
secret "$OPERATOR_PASSWORD_FILE"
cat >/data/users.acl <<EOF
user default off resetpass allkeys allchannels +@all
user execution on #$(hash "$PROGRAMS_PASSWORD_FILE") resetchannels ~$PREFIX* &$PREFIX* +@all -@admin -@dangerous +info
user operator on #$(hash "$OPERATOR_PASSWORD_FILE") allchannels allkeys +@all
EOF
# A replica copies its primary's data as this user. In a file, because all processes see arguments.
cat >/data/redis.conf <<EOF
aclfile /data/users.acl
masteruser operator
masterauth $(cat "$OPERATOR_PASSWORD_FILE")
EOF

# Redis stores contracts and calls, not a cache: it must not evict keys, and accepted work must survive a
# restart.
exec redis-server /data/redis.conf --dir /data --appendonly yes --appendfsync everysec --save '' \
  --maxmemory "$MAXMEMORY" --maxmemory-policy noeviction --protected-mode no --bind '*' '-::*' "$@"
