#!/usr/bin/env bash
# Runs fuzz targets: all, or those named. FUZZ_SECONDS each (default 30). A crash ends it, and leaves its input in
# fuzz/artifacts. Stable Rust will do: the coverage that libFuzzer needs is asked of LLVM directly.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

host=$(rustc -vV | sed -n 's/^host: //p')
coverage=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
          -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
          -Cllvm-args=-sanitizer-coverage-trace-compares)
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Ccodegen-units=1 ${coverage[*]}"

# With --target the flags are for the targets alone, not for build scripts.
target_dir=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --target "$host"

names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
    for file in fuzz_targets/*.rs; do names+=("$(basename "$file" .rs)"); done
fi
for name in "${names[@]}"; do
    mkdir -p "corpus/$name" artifacts
    log=artifacts/$name.log
    if ! "$target_dir/$host/release/$name" "corpus/$name" -max_total_time="${FUZZ_SECONDS:-30}" -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="artifacts/$name-" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz: $name failed; its input is in fuzz/artifacts" >&2
        exit 1
    fi
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
done
echo "fuzz: ${#names[@]} targets, no crash"
