#!/usr/bin/env bash
# Instructions of the processor for a message at each station of its way, counted by callgrind:
# benches/instructions.sh. They do not depend on what else the machine does, and hardly on what it is
# (how the C library copies bytes is a matter of few per cent), so a change that makes a station dearer
# shows at once. Fails where one takes a quarter more than is written below; who has made one cheaper,
# or dearer with a reason, writes down what it takes now. Takes half a minute, and the build before it.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null 2>&1; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y valgrind
fi

# Optimised without the long link of a release; within a few per cent of one.
built=$(cargo bench --quiet --locked --profile quick --bench instructions --no-run \
  --message-format json | sed -n 's/.*"executable":"\([^"]*instructions-[^"]*\)".*/\1/p')
[ -x "$built" ] || { echo "instructions.sh: cargo built no program" >&2; exit 1; }

counted() { # counted STATION TIMES
  local said
  said=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$built" "$1" "$2" 2>&1) ||
    { printf '%s\n' "$said" >&2; return 1; }
  sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$said"
}

failed=0
printf '%-12s %12s %8s %8s\n' station instructions known '%'
while read -r station times known; do
  # The difference of two runs has neither the start nor what the station needs in it.
  few=$(counted "$station" "$times")
  many=$(counted "$station" $((times * 2)))
  each=$(((many - few) / times))
  verdict=
  if [ $((each * 4)) -gt $((known * 5)) ]; then verdict="  TOO MANY" failed=1; fi
  printf '%-12s %12s %8s %+8d%s\n' "$station" "$each" "$known" $(((each - known) * 100 / known)) \
    "$verdict"
done <<'KNOWN'
decode       4000   615
encode       4000   195
queue        4000   390
route-1      4000   225
route-exact  4000   225
route-plus   4000  1540
route-mix    4000  1215
way-qos0     4000  2755
way-qos1     4000  3905
KNOWN
[ "$failed" = 0 ] || echo "instructions.sh: a station of a message's way has become dearer" >&2
exit $failed
