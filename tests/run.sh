#!/usr/bin/env bash
# Installs what the tests need and is not there, then runs all tests: tests/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s\n' "$*"; }

# Debian packages, by the command each brings.
packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need mosquitto_pub mosquitto-clients
need mosquitto_passwd mosquitto
need openssl openssl
need python3 python3
need node nodejs
need npm npm
need cc gcc
[ -e /usr/include/MQTTClient.h ] || packages+=(libpaho-mqtt-dev)
need c++ g++
need valgrind valgrind
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
if [ ${#packages[@]} -gt 0 ]; then
  say "installing ${packages[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "run.sh: needs root to install ${packages[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y "${packages[@]}"
fi

export TEST_CLIENTS=$PWD/target/clients
mkdir -p "$TEST_CLIENTS"
# Libraries of Python and node, at these versions; what rumqttc is built from is in its lock file,
# and Debian's packages are as old as the release.
paho=2.1.0 aiomqtt=2.5.1 gmqtt=0.8.0 mqttjs=5.16.0
has_python() {
  local check="from importlib.metadata import version; assert version('$1') == '$2'"
  PYTHONPATH=$TEST_CLIENTS/python python3 -c "$check" 2>/dev/null
}
if ! { has_python paho-mqtt $paho && has_python aiomqtt $aiomqtt && has_python gmqtt $gmqtt; }; then
  say "installing paho-mqtt, aiomqtt, gmqtt"
  python3 -m pip install -q --upgrade --target "$TEST_CLIENTS/python" \
    "paho-mqtt==$paho" "aiomqtt==$aiomqtt" "gmqtt==$gmqtt"
fi
if ! grep -qs "\"version\": \"$mqttjs\"" "$TEST_CLIENTS/node_modules/mqtt/package.json"; then
  say "installing MQTT.js"
  npm install --silent --no-audit --no-fund --prefix "$TEST_CLIENTS" "mqtt@$mqttjs"
fi
rumqttc=(--manifest-path tests/clients/rumqttc/Cargo.toml)
say "building rumqttc"
cargo build --quiet --locked "${rumqttc[@]}" --target-dir "$TEST_CLIENTS/rumqttc"

say "formatting"
cargo fmt --check
cargo fmt --check "${rumqttc[@]}"
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
say "lints"
cargo clippy --all-targets --quiet -- -D warnings
say "packages"
# Their licenses, origins and versions, as deny.toml wants them.
deny=0.20.2 audit=0.22.2
export PATH=$TEST_CLIENTS/bin:$PATH
install_tool() {
  [[ "$(cargo "$1" --version 2>/dev/null)" == *" $2" ]] ||
    cargo install --quiet --locked --debug --root "$TEST_CLIENTS" "cargo-$1@$2"
}
install_tool deny $deny
cargo deny --log-level error check bans licenses sources
say "advisories"
# What is known to be wrong with them. It is on GitHub, which a machine that tests need not reach.
advisories=https://github.com/RustSec/advisory-db
if GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --quiet "$advisories" HEAD >/dev/null 2>&1; then
  install_tool audit $audit
  cargo deny --log-level error check advisories
  cargo audit --quiet --deny warnings
else
  echo "SKIPPED: advisories are not checked, since $advisories cannot be reached"
fi
say "tests"
cargo test --quiet "$@"
if [ $# = 0 ]; then
  say "fuzzing"
  # Not for a time: what passes once must pass again.
  tests/fuzz.sh 20000x
  say "instructions of a message"
  benches/instructions.sh
fi
