#!/usr/bin/env bash
# Measures Whimbrel beside its peers and draws docs/performance.md's tables and plots anew:
#
#   cargo build --release && MQLOAD_DIR=../mqload docs/performance/measure.sh
#
# MQLOAD_DIR is a built checkout of the load generator. Needs two cores; takes MINUTES at most, but for
# the first repetition of everything, which is never left out; wants a machine that does nothing else.
# What was measured is kept at once: after an end before its time, tables and plots have what there is,
# and the same command goes on. Environment: REPS (3), MINUTES (23), DUR (seconds of a run, 1.5),
# FLASHMQ and RUMQTTD (paths of these brokers, if they are to be measured too), ONLY (some of: standard
# payload latency fanout neighbour workers memory route million).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
MQLOAD_DIR=$(realpath "${MQLOAD_DIR:?a built checkout of mqload}")
export MQLOAD=$MQLOAD_DIR/target/release/mqload WHIMBREL=${WHIMBREL:-$root/target/release/whimbrel}
[ -x "$MQLOAD" ] || { echo "no $MQLOAD" >&2; exit 1; }
# A build of benches or tests may have put another program there, which has their features too.
[ "$WHIMBREL" != "$root/target/release/whimbrel" ] ||
  cargo build --quiet --release --manifest-path "$root/Cargo.toml"
[ -x "$WHIMBREL" ] || { echo "no $WHIMBREL" >&2; exit 1; }
REPS=${REPS:-3} MINUTES=${MINUTES:-23} DUR=${DUR:-1.5} WARM=0.5
ONLY=${ONLY:-standard payload latency fanout neighbour workers memory route million}
export DUR WARM BROKER_CPU=0 WORKERS=1
generator=$(($(nproc) - 1))
ulimit -n "$(ulimit -Hn)"

# The load generators of this repository; the build is not part of the time.
bench() { # bench NAME: its path
  cargo bench --manifest-path "$root/Cargo.toml" --quiet --profile quick --bench "$1" --no-run \
    --message-format json | sed -n 's/.*"executable":"\([^"]*\/'"$1"'-[^"]*\)".*/\1/p'
}
NEIGHBOUR=${NEIGHBOUR:-$(bench neighbour)} SESSIONS=${SESSIONS:-$(bench sessions)}
[ -x "$NEIGHBOUR" ] && [ -x "$SESSIONS" ] || { echo "the benches are not built" >&2; exit 1; }

SECONDS=0

work=$(mktemp -d)
# What is measured, until all of it is: of this program and no other.
fresh=$here/unfinished.jsonl
binary="{\"binary\":\"$(sha256sum "$WHIMBREL" | cut -c1-16)\"}"
[ "$(head -n 1 "$fresh" 2>/dev/null)" = "$binary" ] || echo "$binary" >"$fresh"

peers=()
command -v mosquitto >/dev/null && peers+=(mosquitto)
[ -n "${FLASHMQ:-}" ] && peers+=(flashmq)
with_rumqttd=()
[ -n "${RUMQTTD:-}" ] && with_rumqttd=(rumqttd)
start_of() { [ "$1" = null ] && echo "$MQLOAD_DIR/start/null.sh" || echo "$here/start-$1.sh"; }

pid=
others=
stop() {
  local one
  for one in $others $pid; do
    kill "$one" 2>/dev/null || true
    for _ in $(seq 200); do kill -0 "$one" 2>/dev/null || break; sleep 0.05; done
    kill -9 "$one" 2>/dev/null || true
    wait "$one" 2>/dev/null || true
  done
  pid='' others=''
}
describe() {
  local versions broker
  versions="whimbrel $(git -C "$root" rev-parse --short HEAD)"
  for broker in "${peers[@]}" "${with_rumqttd[@]}"; do
    case $broker in
      mosquitto) versions+=", $(mosquitto -h | head -1 || true)" ;;
      flashmq) versions+=", $("$FLASHMQ" --version 2>/dev/null | head -1 || true)" ;;
      rumqttd) versions+=", $("$RUMQTTD" --version 2>/dev/null || echo rumqttd)" ;;
    esac
  done
  printf '{"machine":"%s, %s cores","kernel":"%s","versions":"%s"}\n' \
    "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)" "$(nproc)" "$(uname -r)" "$versions"
}
draw() { describe >"$work/machine" && python3 "$here/plot.py" "$fresh" "$work/machine"; }
trap 'stop; draw || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

port=$((24000 + RANDOM % 4000))
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
start() { # start BROKER
  port=$((port + 1))
  while listens "$port"; do port=$((port + 1)); done
  data=$work/$port
  mkdir "$data"
  "$(start_of "$1")" "$port" "$data" >"$data.log" 2>&1 &
  pid=$!
  for _ in $(seq 200); do
    listens "$port" && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  sleep 0.3
}
# run PLOT X BROKER PROGRAM ARGUMENT...: one run with a broker of its own; a line in the results. With
# DISTURBER set, a Client of that kind is busy meanwhile. What was measured before is not again.
ahead=()
run() {
  local plot=$1 x=$2 broker=$3 program=$4 line=
  shift 4
  local key="{\"plot\":\"$plot\",\"x\":$x,\"name\":\"$broker\",\"nth\":$rep,"
  grep -qF "$key" "$fresh" && return 0
  [ "$rep" = 1 ] || [ "$SECONDS" -lt $((MINUTES * 60)) ] || return 0
  echo "-- $((SECONDS / 60)):$((SECONDS % 60)) $rep $plot $x: $broker" >&2
  start "$broker"
  # shellcheck disable=SC2086
  if [ -n "${DISTURBER:-}" ]; then
    nice -n 19 "$NEIGHBOUR" --port "$port" --core "$generator" --seconds 60 $DISTURBER \
      >"$data.other" 2>&1 &
    others=$!
    for _ in $(seq 600); do
      grep -qs ready "$data.other" && break
      kill -0 "$others" 2>/dev/null || break
      sleep 0.1
    done
    sleep 0.3
  fi
  line=$(timeout 300 ${ahead[@]+"${ahead[@]}"} "$program" "$@" --port "$port" --pid "$pid" --cpu "$generator" \
    --broker "$broker" 2>"$data.err" </dev/null || true)
  [ -z "${DISTURBER:-}" ] || kill -0 "$others" 2>/dev/null || line=
  [ -n "$line" ] || line="{\"broker\":\"$broker\",\"ok\":false}"
  echo "$key${line#\{}" >>"$fresh"
  stop
  rm -rf "$data"
}
mqload() { # mqload PLOT X BROKER ARGUMENT...
  local plot=$1 x=$2 broker=$3
  shift 3
  run "$plot" "$x" "$broker" "$MQLOAD" "$@" --tree
}

window=(--warmup "$WARM" --duration "$DUR")
closed=("${window[@]}" --poll-us auto)
# Those that take turns in this repetition: the figures of slow ones are not so fine.
field() {
  local all=(whimbrel)
  case $rep in
    1) all+=("${peers[@]}" "${with_rumqttd[@]}") ;;
    2) all+=("${peers[@]}") ;;
    *) [ -z "${FLASHMQ:-}" ] || all+=(flashmq) ;;
  esac
  echo "${all[@]}"
}

measure_standard() {
  local name arguments broker
  # shellcheck source=/dev/null
  . "$MQLOAD_DIR/scenarios.sh"
  while IFS=$'\t' read -r name arguments <&4; do
    for broker in null $(field); do
      case $broker-$name in
        null-subs-plus | null-retain | null-offline | rumqttd-offline | rumqttd-retain) continue ;;
      esac
      # shellcheck disable=SC2086
      mqload standard "\"$name\"" "$broker" $arguments --tag "$name"
    done
  done 4<<<"$SCENARIOS"
}
measure_payload() {
  local payload broker load
  for payload in 16 1024 65536; do
    load=(pubsub --pattern one-to-one --pubs 10 --qos 0 --payload $payload)
    load+=(--window $((payload > 4096 ? 8 : 64)) "${closed[@]}")
    for broker in null $(field); do
      mqload payload $payload "$broker" "${load[@]}"
      [ $rep$broker = 1rumqttd ] || [ $rep != 1 ] || mqload payload-v5 $payload "$broker" "${load[@]}" -V 5
    done
  done
}
# The highest rates are half of what mosquitto and FlashMQ can.
measure_latency() {
  local rate broker
  for rate in 4000 32000 100000 500000; do
    for broker in null $(field); do
      [ $rate = 500000 ] && [[ $broker = mosquitto || $broker = rumqttd ]] && continue
      mqload latency $rate "$broker" pubsub --pattern one-to-one --pubs 50 --qos 1 --payload 256 \
        --rate $rate "${window[@]}"
    done
  done
}
# Of so many deliveries of a message the slowest thousandth is the last one.
measure_fanout() {
  local broker
  for broker in null $(field); do
    mqload fanout 1000 "$broker" pubsub --pattern fan-out --pubs 1 --subs 1000 --qos 0 --payload 64 \
      --rate 20 --warmup "$WARM" --duration 3
  done
}
measure_neighbour() {
  local kind qos broker
  # It shares its core with the Client that disturbs, and must not be what is disturbed.
  ! chrt -f 1 true 2>/dev/null || ahead=(chrt -f 1)
  for qos in 0 1; do
    for kind in none flood stuck greedy; do
      for broker in whimbrel $([ $rep != 1 ] || echo "${peers[@]}"); do
        DISTURBER=
        [ $kind = none ] || DISTURBER="--kind $kind --qos $qos"
        mqload neighbour-$qos "\"$kind\"" "$broker" pubsub --pattern one-to-one --pubs 20 --qos $qos \
          --payload 64 --rate 2000 --warmup "$WARM" --duration 3
        DISTURBER=
      done
    done
  done
  ahead=()
}
# Broker and generator have both cores: what a second worker costs shows in processor time. Of 20 pairs
# each has one worker, of 21 each has two. Four threads take turns on two cores, so single figures vary
# widely: three times as many rounds.
measure_workers() {
  local qos pairs round whole=$rep
  for round in 1 2 3; do
    rep=$whole$round
    for qos in 0 1; do
      for pairs in 20 21; do
        for WORKERS in 1 2; do
          generator=0,1 BROKER_CPU=0,1 mqload "workers-$qos-$pairs" "$WORKERS" whimbrel pubsub \
            --pattern one-to-one --pubs $pairs --qos $qos --payload 64 --window 64 "${closed[@]}"
        done
      done
    done
  done
  rep=$whole WORKERS=1
}
measure_memory() {
  [ $rep = 1 ] || return 0
  local connections broker
  for connections in 1000 5000 15000; do
    for broker in $(field); do
      mqload memory $connections "$broker" connect --conns $connections --subscribe 1 \
        --inflight-open 100 --keepalive 60 --hold 1 --sources 4
    done
  done
}
measure_route() {
  [ $rep = 1 ] || return 0
  local shape each broker
  for shape in exact plus hash; do
    for each in 20 2000 20000; do
      for broker in $(field); do
        [ "$each-$broker" != 20-rumqttd ] && [ "$broker" = rumqttd ] && continue
        mqload route-$shape $((each * 50)) "$broker" subscribe --clients 50 --filters $each \
          --shape $shape --qos 0 --timeout 100 "${closed[@]}"
      done
    done
  done
}
measure_million() {
  [ $rep = 1 ] || return 0
  local broker sessions
  for broker in whimbrel "${peers[@]}"; do
    mqload million-retained 1000000 "$broker" retain --messages 1000000 --subs 1 --qos 1 --match all \
      --poll-us auto --timeout 60 --keep
    DISTURBER='--kind greedy --qos 0 --retained 1000000'
    mqload million-stream 1000000 "$broker" pubsub --pattern one-to-one --pubs 20 --qos 0 \
      --payload 64 --rate 2000 --warmup "$WARM" --duration 3
    DISTURBER=
    sessions=200000
    [ "$broker" = whimbrel ] && sessions=1000000
    run million-sessions $sessions "$broker" "$SESSIONS" --sessions $sessions
  done
}

for rep in $(seq "$REPS"); do # Repetitions outside: the machine's moods meet all brokers alike.
  for part in $ONLY; do
    "measure_$part"
  done
done
draw
trap 'rm -rf "$work"' EXIT
rm "$fresh"
