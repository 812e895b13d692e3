#!/usr/bin/env bash
# A broker for measure.sh: start-rumqttd.sh PORT DIRECTORY
listener() { # listener VERSION PORT
  cat <<TOML
[$1.1]
name = "$1"
listen = "127.0.0.1:$2"
next_connection_delay_ms = 0
[$1.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 1000
TOML
}
{
  cat <<TOML
id = 0
[router]
id = 0
max_connections = 20000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
TOML
  listener v4 "$1"
} >"$2/rumqttd.toml"
ulimit -n "$(ulimit -Hn)"
exec taskset -c "${BROKER_CPU:-0}" "$RUMQTTD" -c "$2/rumqttd.toml" -q
