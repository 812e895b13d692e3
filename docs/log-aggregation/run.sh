#!/usr/bin/env bash
# run.sh [RECORDS]: a burst of log records, one queue, four workers; see README.md.
# PROGRAM names the broker; CLIENTS the directory of the clients' libraries.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
records=${1:-100000}
program=${PROGRAM:-$root/target/release/whimbrel}
clients=${CLIENTS:-$root/target/clients}
export PYTHONPATH=$clients/python${PYTHONPATH:+:$PYTHONPATH} NODE_PATH=$clients/node_modules
work=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=()
trap '{ kill -9 "${pids[@]}" "$broker"; wait; } 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

{
  echo 'persistence_location = "data"'
  cat "$here/whimbrel.toml"
  printf '[[listener]]\nport = %s\nbind_address = "127.0.0.1"\n' "$port"
} >"$work/whimbrel.toml"

start_broker() {
  "$program" -c "$work/whimbrel.toml" >>"$work/log" 2>&1 &
  broker=$!
  for _ in $(seq 400); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
    kill -0 "$broker" 2>/dev/null || break
    sleep 0.05
  done
  echo "the broker did not start" >&2
  cat "$work/log" >&2
  exit 1
}
start_worker() { # start_worker NUMBER LIFE
  python3 "$here/worker.py" "$port" "worker-$1" "$work/done-$1-$2" 2>>"$work/log" &
  pids[$1]=$!
}
processed() { find "$work" -name "done-*" -exec cat {} + | wc -l; }
await() { # await COUNT: until so many records are processed; fails when nothing happens any more
  local before=-1 now idle=0
  while now=$(processed) && [ "$now" -lt "$1" ]; do
    if [ "$now" = "$before" ]; then idle=$((idle + 1)); else idle=0; fi
    [ "$idle" -lt 300 ] || { echo "$now records, and nothing happens any more" >&2; return 1; }
    before=$now
    sleep 0.1
  done
}

start_broker
third=$((records / 3))
echo "pouring in $records records by three kinds of clients"
seq -f 'record %.0f' 0 $((third - 1)) | mosquitto_pub -p "$port" -i shell -t logs/shell -q 1 -l &
shell=$!
python3 "$here/source.py" "$port" "$third" "$third" &
python=$!
node "$here/source.mjs" "$port" $((2 * third)) $((records - 2 * third)) &
node=$!
wait "$shell"; wait "$python"; wait "$node"

echo "four workers"
for n in 0 1 2 3; do start_worker $n 1; done
await "$third"
echo "SIGKILL for worker 0 after $(processed) records, and it starts again"
kill -9 "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true
start_worker 0 2

await $((2 * third))
echo "workers and broker stop after $(processed) records, and start again"
kill "${pids[@]}"
wait "${pids[@]}" 2>/dev/null || true
kill "$broker"
wait "$broker"
start_broker
for n in 0 1 2 3; do start_worker $n 3; done
await "$records"

python3 - "$work" "$records" <<'CHECK'
import collections, glob, sys

work, records = sys.argv[1], int(sys.argv[2])
times, killed = collections.Counter(), set()
for path in glob.glob(f"{work}/done-*"):
    # The killed worker's last line may be torn.
    done = [line for line in open(path).read().split("\n")[:-1]]
    times.update(done)
    if path.endswith("done-0-1"):
        killed.update(done)
wanted = {f"record {n}" for n in range(records)}
missing, strange = wanted - times.keys(), times.keys() - wanted
twice = {record for record, n in times.items() if n > 1}
print(f"{len(times)} records processed, {len(twice)} of them twice, by the worker that was killed")
assert not missing, f"{len(missing)} records are missing, {sorted(missing)[:5]}"
assert not strange, f"nobody sent {sorted(strange)[:5]}"
assert twice <= killed and len(twice) <= 20, f"twice without a reason: {sorted(twice - killed)[:5]}"
assert max(times.values()) <= 2
CHECK
