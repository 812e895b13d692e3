#!/usr/bin/env bash
# A broker for measure.sh: start-flashmq.sh PORT DIRECTORY
cat >"$2/flashmq.conf" <<CONF
allow_anonymous true
thread_count 1
rlimit_nofile $(ulimit -Hn)
storage_dir $2
log_file $2/flashmq.log
log_level warning
max_qos_msg_pending_per_client 65535
max_qos_bytes_pending_per_client 4000000000
listen {
  protocol mqtt
  port $1
}
CONF
ulimit -n "$(ulimit -Hn)"
exec taskset -c "${BROKER_CPU:-0}" "$FLASHMQ" --config-file "$2/flashmq.conf"
