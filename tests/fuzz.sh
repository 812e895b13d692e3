#!/usr/bin/env bash
# Looks for inputs that break a promise, with coverage feedback, on stable Rust:
#
#   tests/fuzz.sh SECONDS [TARGET...]    fuzz so long; JOBS targets at once (default: the cores)
#   tests/fuzz.sh COUNTx [TARGET...]     fuzz so many inputs, the same each time for the same program
#   tests/fuzz.sh keep [TARGET...]       keep in tests/data/fuzz/ what earlier runs have found: all that
#                                        crashed, of the rest the least that reaches the same code
#
# Prints a line per target; status 1 when something was found. WORK is where logs, found inputs and
# crashes go (default: target/fuzz). The targets are in tests/fuzz/targets/; `cargo test --test fuzz`
# replays what is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/target/fuzz
work=${WORK:-$build}
program=$build/debug/whimbrel-fuzz
all="codec topic websocket proxy config store import token"

what=${1:?fuzz.sh: how many seconds, how many inputs (100x), or keep?}
shift
[[ $what = keep || $what =~ ^[1-9][0-9]*x?$ ]] \
  || { echo "fuzz.sh: seconds, a count of inputs such as 100x, or keep; not $what" >&2; exit 2; }
read -ra targets <<<"${*:-$all}"
for target in "${targets[@]}"; do
  [[ " $all " = *" $target "* ]] || { echo "fuzz.sh: the targets are $all" >&2; exit 2; }
done

# The broker's versions of all packages; cargo adds libFuzzer's.
[ tests/fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock tests/fuzz/Cargo.lock
(cd tests/fuzz && RUSTC_WRAPPER=$PWD/rustc.sh CARGO_TARGET_DIR=$build cargo build --quiet)

# The last number after a word in the lines of progress.
progress() { grep -oE "$2: [0-9]+" "$1" | tail -1 | grep -oE '[0-9]+' || echo 0; }
stat() { grep -oE "stat::$2: *[0-9]+" "$1" | grep -oE '[0-9]+$' || echo 0; }

fuzz() {
  local target=$1 much=$2
  local bound=(-max_total_time="$much")
  if [[ $much = *x ]]; then bound=(-runs="${much%x}" -seed=1); fi
  local begin=$work/begin/$target found=$work/found/$target crashes=$work/crashes/$target
  local log=$work/$target.log first
  rm -rf "$begin" && mkdir -p "$begin" "$found" "$crashes"
  export FUZZ_TARGET=$target
  FUZZ_UNPACK=$begin "$program" 2>/dev/null
  local before
  before=$(ls "$crashes" | wc -l)
  local dictionary=()
  if [ -s "$begin.dict" ]; then dictionary=(-dict="$begin.dict"); fi
  # These times are of the wall clock: long, for a machine that has other things to do.
  "$program" "${bound[@]}" -timeout=300 -report_slow_units=300 -rss_limit_mb=1024 \
    -max_len=4096 -reload=0 \
    -print_final_stats=1 "${dictionary[@]}" -artifact_prefix="$crashes/" "$found" "$begin" \
    >"$log" 2>&1 || true
  first=$(mktemp)
  grep -m1 INITED "$log" >"$first" || true
  printf '%-10s %10s executions %7s/s   edges %5s (+%s)   features %6s (+%s)   corpus %5s   crashes %s\n' \
    "$target" "$(stat "$log" number_of_executed_units)" "$(stat "$log" average_exec_per_sec)" \
    "$(progress "$log" cov)" "$(($(progress "$log" cov) - $(progress "$first" cov)))" \
    "$(progress "$log" ft)" "$(($(progress "$log" ft) - $(progress "$first" ft)))" \
    "$(progress "$log" corp)" "$(($(ls "$crashes" | wc -l) - before))"
  rm -f "$first"
  # Whatever ended it early is a finding, also without an input.
  if ! grep -q '^Done ' "$log"; then
    grep -A4 panicked "$log" || true
    tail -15 "$log"
    echo "fuzz.sh: $target: see $log; again: FUZZ_TARGET=$target $program $crashes/..." >&2
    return 1
  fi
}

keep() {
  local target=$1
  local begin=$work/begin/$target found=$work/found/$target least=$work/least/$target
  local crashes=$work/crashes/$target
  rm -rf "$least" && mkdir -p "$least" "$begin" "$found" "$crashes"
  export FUZZ_TARGET=$target
  FUZZ_REMEMBER=$crashes "$program" 2>/dev/null
  FUZZ_UNPACK=$begin "$program" 2>/dev/null
  "$program" -merge=1 -timeout=300 "$least" "$begin" "$found" >"$work/$target-keep.log" 2>&1
  FUZZ_PACK=$least "$program" 2>/dev/null
  echo "$target: $(wc -l <"tests/data/fuzz/$target.txt") inputs"
}

if [ "$what" = keep ]; then
  for target in "${targets[@]}"; do keep "$target"; done
  exit
fi
export -f fuzz progress stat
export work program
printf '%s\n' "${targets[@]}" |
  xargs -P "${JOBS:-$(nproc)}" -I{} bash -euo pipefail -c "fuzz {} $what"
