#!/usr/bin/env bash
# Measures Whimbrel beside its peers and draws docs/performance.md's tables and plots anew:
#
#   cargo build --release && MQLOAD_DIR=../mqload docs/performance/measure.sh
#
# MQLOAD_DIR is a built checkout of the load generator. Needs two cores; takes half an hour; wants a
# machine that does nothing else. Environment: REPS (3), DUR (seconds of a run, 3), FLASHMQ and
# RUMQTTD (paths of these brokers, if they are to be measured too), ONLY (of: standard payload latency
# memory route), FILTERS (of each of 50 Clients: 20 200 2000 20000).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
MQLOAD_DIR=$(realpath "${MQLOAD_DIR:?a built checkout of mqload}")
export MQLOAD=$MQLOAD_DIR/target/release/mqload WHIMBREL=${WHIMBREL:-$root/target/release/whimbrel}
[ -x "$MQLOAD" ] || { echo "no $MQLOAD" >&2; exit 1; }
[ -x "$WHIMBREL" ] || { echo "no $WHIMBREL: cargo build --release first" >&2; exit 1; }
REPS=${REPS:-3} DUR=${DUR:-3} ONLY=${ONLY:-standard payload latency memory route}
export DUR WARM=1 BROKER_CPU=0
generator=$(($(nproc) - 1))
results=$here/results.jsonl
work=$(mktemp -d)
ulimit -n "$(ulimit -Hn)"

brokers=(whimbrel)
command -v mosquitto >/dev/null && brokers+=(mosquitto)
[ -n "${RUMQTTD:-}" ] && brokers+=(rumqttd)
[ -n "${FLASHMQ:-}" ] && brokers+=(flashmq)
start_of() { [ "$1" = null ] && echo "$MQLOAD_DIR/start/null.sh" || echo "$here/start-$1.sh"; }

pid=
stop() {
  [ -n "$pid" ] || return 0
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  pid=
}
trap 'stop; rm -rf "$work"' EXIT

port=$((24000 + RANDOM % 4000))
# run PLOT X BROKER MQLOAD-ARGUMENT...: one run with a broker of its own; a line in the results.
run() {
  local plot=$1 x=$2 broker=$3
  shift 3
  port=$((port + 1))
  local data=$work/$port
  mkdir "$data"
  "$(start_of "$broker")" "$port" "$data" >"$data.log" 2>&1 &
  pid=$!
  for _ in $(seq 200); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.05
  done
  sleep 0.3
  echo "-- $plot $x: $broker" >&2
  local line
  line=$("$MQLOAD" "$@" --port "$port" --pid "$pid" --tree --cpu "$generator" --broker "$broker" \
    2>"$data.err" || true)
  [ -n "$line" ] && echo "{\"plot\":\"$plot\",\"x\":$x,${line#\{}" >>"$results"
  stop
  rm -rf "$data"
}

closed=(--warmup "$WARM" --duration "$DUR" --poll-us auto)
wants() { [[ " $ONLY " == *" $1 "* ]]; }
for part in $ONLY; do # What is measured again replaces what there was.
  [ -e "$results" ] || : >"$results"
  grep -v "^{\"plot\":\"$part" "$results" >"$work/kept" || true
  cat "$work/kept" >"$results"
done

if wants standard; then
  starts=()
  for broker in null "${brokers[@]}"; do starts+=("$broker=$(start_of "$broker")"); done
  SKIP_rumqttd="offline" "$MQLOAD_DIR/compare.sh" --reps "$REPS" --out "$work/standard" "${starts[@]}" >&2 || true
  sed 's/^{/{"plot":"standard","x":0,/' "$work/standard/runs.jsonl" >>"$results"
fi
for _ in $(seq "$REPS"); do # Repetitions outside: the machine's moods meet all brokers alike.
  if wants payload; then
    for payload in 16 1024 65536; do
      window=$((payload > 4096 ? 8 : 64))
      load=(pubsub --pattern one-to-one --pubs 10 --qos 0 --payload $payload --window $window)
      for broker in null "${brokers[@]}"; do
        run payload "$payload" "$broker" "${load[@]}" "${closed[@]}"
        run payload-v5 "$payload" "$broker" "${load[@]}" "${closed[@]}" -V 5
      done
    done
  fi
  if wants latency; then
    for rate in 1000 4000 16000 32000; do
      for broker in null "${brokers[@]}"; do
        run latency $rate "$broker" pubsub --pattern one-to-one --pubs 50 --qos 1 --payload 256 \
          --rate $rate --warmup "$WARM" --duration "$DUR"
      done
    done
  fi
done
if wants memory; then
  for connections in 1000 5000 15000; do
    for broker in "${brokers[@]}"; do
      run memory $connections "$broker" connect --conns $connections --subscribe 1 \
        --inflight-open 100 --keepalive 60 --hold 2 --sources 4
    done
  done
fi
if wants route; then
  for shape in exact plus hash; do
    for each in ${FILTERS:-20 200 2000 20000}; do
      for broker in "${brokers[@]}"; do
        run route-$shape $((each * 50)) "$broker" subscribe --clients 50 --filters $each \
          --shape $shape --qos 0 --timeout 300 "${closed[@]}"
      done
    done
  done
fi
machine="$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $(nproc) cores"
versions="whimbrel $(git -C "$root" rev-parse --short HEAD)"
for broker in "${brokers[@]}"; do
  case $broker in
    mosquitto) versions+=", $(mosquitto -h | head -1 || true)" ;;
    flashmq) versions+=", $("$FLASHMQ" --version 2>/dev/null | head -1 || true)" ;;
    rumqttd) versions+=", $("$RUMQTTD" --version 2>/dev/null || echo rumqttd)" ;;
  esac
done
grep -v '^{"machine"' "$results" >"$work/kept" || true
{ echo "{\"machine\":\"$machine\",\"kernel\":\"$(uname -r)\",\"versions\":\"$versions\"}"; cat "$work/kept"; } >"$results"
python3 "$here/plot.py"
