#!/bin/sh
# Cargo's RUSTC_WRAPPER: compiles what is fuzzed with LLVM's coverage counters, which stable Rust
# reaches by the names of the pass and of its options, and everything else as it is.
case " $* " in
  *" --crate-name whimbrel "* | *" --crate-name toml "* | *" --crate-name toml_parser "* | \
  *" --crate-name tungstenite "* | *" --crate-name tokio_tungstenite "* | \
  *" --crate-name http "* | *" --crate-name httparse "*)
    exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
      -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
      -C llvm-args=-sanitizer-coverage-pc-table \
      -C llvm-args=-sanitizer-coverage-trace-compares ;;
  *) exec "$@" ;;
esac
