#!/bin/sh
# Runs the fuzz targets (all, or those named) with libFuzzer, which lets coverage guide its choices.
# FUZZ_RUNS: executions of each, ten million unless said; FUZZ_SECONDS: at most so long each;
# FUZZ_LENGTH: bytes of an input at most, 128 unless said: an execution costs by its length.
#
# Stable Rust has the compiler's half of it, LLVM's pass; bolero brings libFuzzer's source, which
# g++ compiles. The flags are those of cargo-fuzz without a sanitizer, which would want a nightly
# compiler. With --target they are not used for build scripts and macros.
set -eu
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=target/fuzz
# Counters of coverage do not survive optimisation over all crates at once.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true
export RUSTFLAGS="--cfg fuzzing --cfg fuzzing_libfuzzer -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
targets=${*:-parse process fields icmp_error checkpoint netlink capture apiserver}
for target in $targets; do
    known=rust/fuzz/tests/__fuzz__/$target
    learned=$PWD/target/fuzz/corpus/$target
    mkdir -p "$learned" "$PWD/$known/crashes"
    echo "== $target"
    BOLERO_LIBFUZZER_ARGS="-runs=${FUZZ_RUNS:-10000000} -max_total_time=${FUZZ_SECONDS:-0} \
-max_len=${FUZZ_LENGTH:-128} -timeout=10 -print_final_stats=1 -verbosity=0 \
-artifact_prefix=$PWD/$known/crashes/ $learned $PWD/$known/corpus" \
        cargo test --quiet --release --target "$host" -p kbe-nat-fuzz --test targets \
        -- --exact "$target" --nocapture --test-threads 1
done
