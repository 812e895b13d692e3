#!/usr/bin/env bash
# Instructions a message at each station of its way, counted by callgrind, with bounds that a
# change must not pass: benches/instructions.sh. Takes a minute, and the build before it.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null 2>&1; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y valgrind
fi

# Optimised without the long link of a release; within a few per cent of one.
built=$(cargo bench --quiet --profile quick --bench instructions --no-run --message-format json |
  grep -o '"executable":"[^"]*instructions-[^"]*"' | cut -d'"' -f4)

counted() { # counted STATION TIMES
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$built" "$1" "$2" 2>&1 |
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

failed=0
printf '%-12s %12s %8s\n' station instructions bound
while read -r station times bound; do
  few=$(counted "$station" "$times")
  many=$(counted "$station" $((times * 2)))
  each=$(((many - few) / times))
  verdict=
  if [ "$each" -gt "$bound" ]; then verdict=" TOO MANY" failed=1; fi
  printf '%-12s %12s %8s%s\n' "$station" "$each" "$bound" "$verdict"
done <<'BOUNDS'
decode       4000  1100
encode       4000   300
queue        4000   420
route-1      4000   300
route-exact  4000   300
route-plus   4000  2100
route-mix    4000  1700
way-qos0     4000  4000
way-qos1     4000  5200
BOUNDS
exit $failed
