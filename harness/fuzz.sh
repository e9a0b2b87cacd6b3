#!/usr/bin/env bash
# Runs a fuzz target, guided by coverage: what `cargo fuzz` does, with the pinned toolchain and nothing else
# but a C++ compiler. A crash leaves its input in target/fuzz-artifacts and a non-zero exit code; the corpus
# grows in target/fuzz-corpus.
#
# Usage: bash harness/fuzz.sh TARGET [SECONDS]     TARGET is decode or attach
# FUZZ_SANITIZER=address finds memory errors as well, at a fraction of the speed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${1:?usage: fuzz.sh TARGET [SECONDS]}"
seconds="${2:-60}"
out="$(realpath -m "${CARGO_TARGET_DIR:-target}")"
sanitizer="${FUZZ_SANITIZER:-none}"
triple="$(rustc -vV | sed -n 's/^host: //p')"

# The flags of cargo-fuzz. Given for the target alone (--target), so that build scripts are plain programs.
flags="--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions -Ccodegen-units=1"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
if [ "$sanitizer" != none ]; then
    flags+=" -Zsanitizer=$sanitizer"
    # The sanitizers come with the stable toolchain; only their switch is held back.
    export RUSTC_BOOTSTRAP=1
fi

# Valid messages to begin with.
cargo test --quiet -p shm-transport --locked --test corpus seeds_for_the_fuzzer
build="$out/fuzz-$sanitizer"
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$build" cargo build --quiet --release --locked --target "$triple" \
    --manifest-path shm-transport/fuzz/Cargo.toml --bin "$target"

corpus="$out/fuzz-corpus/$target"
artifacts="$out/fuzz-artifacts/$target"
mkdir -p "$corpus" "$artifacts"
exec "$build/$triple/release/$target" "$corpus" "$out/tmp/fuzz-seeds/$target" -artifact_prefix="$artifacts/" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
