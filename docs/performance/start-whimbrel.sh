#!/usr/bin/env bash
# A broker for measure.sh, as it comes but for anonymous Clients: start-whimbrel.sh PORT DIRECTORY
cat >"$2/whimbrel.toml" <<TOML
workers = ${WORKERS:-1}
allow_anonymous = true
persistence_location = "$2/data"

[[listener]]
port = $1
TOML
ulimit -n "$(ulimit -Hn)"
exec taskset -c "${BROKER_CPU:-0}" "$WHIMBREL" -c "$2/whimbrel.toml"
