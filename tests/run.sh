#!/usr/bin/env bash
# Installs what the tests need and is not there, then runs all tests: tests/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s\n' "$*"; }

# Debian packages, by the command each brings.
packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need mosquitto_pub mosquitto-clients
need openssl openssl
need python3 python3
need node nodejs
need npm npm
need cc gcc
need c++ g++
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
if ! PYTHONPATH=$TEST_CLIENTS/python python3 -c 'import paho.mqtt.client' 2>/dev/null; then
  say "installing paho-mqtt"
  python3 -m pip install -q --target "$TEST_CLIENTS/python" 'paho-mqtt==2.1.0'
fi
if [ ! -d "$TEST_CLIENTS/node_modules/mqtt" ]; then
  say "installing MQTT.js"
  npm install --silent --no-audit --no-fund --prefix "$TEST_CLIENTS" mqtt@5
fi

say "formatting"
cargo fmt --check
cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
say "lints"
cargo clippy --all-targets --quiet -- -D warnings
say "tests"
cargo test --quiet "$@"
if [ $# = 0 ]; then
  say "fuzzing"
  tests/fuzz.sh 15
fi
