#!/usr/bin/env bash
# Plays the dialogues and writes the pages in conformance/results, and the table in README.md:
#
#     conformance/run.sh                        Whimbrel, built from here
#     conformance/run.sh mosquitto              Debian's mosquitto, started on a free port
#     conformance/run.sh NAME HOST:PORT         any broker that is running
#
# NAME, with an optional version after it, is the title and chooses the dialogues' `differs` lines.
# The exit status is that of the dialogues: 0 if all that were played went as written.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-Whimbrel}
page=$(echo "${name%% *}" | tr '[:upper:]' '[:lower:]')
export BROKER_NAME=$name REPORT=$PWD/conformance/results/$page.md
mkdir -p conformance/results

if [ $# -ge 2 ]; then
  export BROKER=$2
elif [ "$page" = mosquitto ]; then
  PATH=$PATH:/usr/sbin
  if ! command -v mosquitto >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y mosquitto
  fi
  BROKER_NAME="mosquitto $({ mosquitto -h || true; } | sed -n '1s/.*version //p')"
  directory=$(mktemp -d)
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  # Without `user`, mosquitto started by root could not read its own directory.
  printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser %s\n' "$port" "$(id -un)" >"$directory/mosquitto.conf"
  mosquitto -c "$directory/mosquitto.conf" 2>"$directory/log" &
  pid=$!
  trap 'kill $pid 2>/dev/null || true; rm -rf "$directory"' EXIT
  until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null; do
    kill -0 $pid || { cat "$directory/log" >&2; exit 1; }
    sleep 0.05
  done
  export BROKER=127.0.0.1:$port
fi

status=0
cargo test --quiet --test conformance every_dialogue_goes_as_written || status=$?

# The broker's row in README.md, if it has one.
counts=$(sed -nE '3s/.*: ([0-9]+) ok, ([0-9]+) failed, ([0-9]+) skipped.*/\1 | \2 | \3/p' "$REPORT")
row="| [$(sed -n '1s/^# //p' "$REPORT")](conformance/results/$page.md) | $counts |"
sed -i "s#^| \[.*\](conformance/results/$page.md) |.*#$row#" README.md
exit $status
