#!/usr/bin/env bash
# A broker for measure.sh, without bounds of its queues: start-mosquitto.sh PORT DIRECTORY
cat >"$2/mosquitto.conf" <<CONF
listener $1 127.0.0.1
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
CONF
ulimit -n "$(ulimit -Hn)"
exec taskset -c "${BROKER_CPU:-0}" mosquitto -c "$2/mosquitto.conf"
