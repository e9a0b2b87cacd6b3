#!/usr/bin/env bash
# Sets up what is missing and passes every test of AgentFS. The last line counts:
# `N passed, N failed`, or `N passed, N failed, N skipped`. Exit code 0 only without failures.
#
# Usage: bash harness/test.sh [--no-setup]
# Logs of every step stand in target/test-logs (or $CARGO_TARGET_DIR/test-logs).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
logs="$target/test-logs"
mkdir -p "$logs"

passed=0
failed=0
skipped=0

if [ "${1:-}" != "--no-setup" ]; then
    bash .ci/setup --tests
fi

# step NAME COMMAND...: one check that passes or fails as a whole.
step() {
    local name="$1" log="$logs/$1.log" started="$SECONDS"
    shift
    printf '== %s: %s\n' "$name" "$*"
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf '   ok, %d s\n' "$((SECONDS - started))"
        return 0
    fi
    failed=$((failed + 1))
    tail -n 60 "$log"
    printf '   FAILED, %d s (whole log: %s)\n' "$((SECONDS - started))" "$log"
    return 1
}

# skip NAME REASON: a check that cannot run here.
skip() {
    skipped=$((skipped + 1))
    printf '== %s: SKIPPED: %s\n' "$1" "$2"
}

# tests NAME LEAST COMMAND...: a run of Rust test binaries, whose own counts are added. It fails too
# when fewer than LEAST tests ran: a suite that silently ran nothing proves nothing.
tests() {
    local name="$1" least="$2" log="$logs/$1.log" started="$SECONDS" status=0 counts ok bad ignored
    shift 2
    printf '== %s: %s\n' "$name" "$*"
    "$@" >"$log" 2>&1 || status=$?
    # A test that cannot run here says `skipped: NAME: REASON` and returns: Rust counts it as passed.
    counts="$(awk '/^test result: / {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) == "passed;") p += $i
                if ($(i + 1) == "failed;") f += $i
                if ($(i + 1) == "ignored;") n += $i
            }
        }
        /^skipped: / { s++ }
        END { printf "%d %d %d\n", p - s, f, n + s }' "$log")"
    read -r ok bad ignored <<<"$counts"
    grep '^skipped: ' "$log" | sort -u | sed 's/^/   /' || true
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1 # It did not compile, or a test binary died.
    elif [ "$ok" -lt "$least" ]; then
        printf '   only %d tests ran, at least %d are expected\n' "$ok" "$least"
        bad=$((bad + 1))
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    skipped=$((skipped + ignored))
    if [ "$bad" -gt 0 ]; then
        grep -E '^(test .* FAILED|---- |error(\[|:)|thread .* panicked)' "$log" | head -n 60 || true
        tail -n 60 "$log"
    fi
    printf '   %d passed, %d failed, %d skipped, %d s (whole log: %s)\n' \
        "$ok" "$bad" "$ignored" "$((SECONDS - started))" "$log"
    [ "$bad" -eq 0 ]
}

# Files over 500 lines are read by nobody. Exceptions stand here, with the reason:
#   path:reason
long_files_allowed=(
    "harness/tests/commit_failures.rs:everything that may stand in a commit's way, told in one place"
    "control-cli/src/commit/tests.rs:every crash point over one set of plans, told in one place"
)

line_count() {
    local file lines bad=0 entry
    while IFS= read -r file; do
        lines="$(wc -l <"$file")"
        [ "$lines" -gt 500 ] || continue
        for entry in "${long_files_allowed[@]+"${long_files_allowed[@]}"}"; do
            [ "${entry%%:*}" = "$file" ] && continue 2
        done
        printf '%s has %d lines, 500 are allowed: split it, or list it in harness/test.sh with a reason\n' \
            "$file" "$lines"
        bad=1
    done < <(find shm-transport fscore-daemon fuse-frontend control-cli harness -name target -prune -o -name '*.rs' -print)
    return "$bad"
}

# unsafe code only below shm-transport/src/mem, and in the loom models, which no program contains. The
# compiler enforces `deny`; this enforces that nobody allows it elsewhere.
unsafe_places() {
    ! grep -rnE 'allow\(.*unsafe_code|expect\(.*unsafe_code' --include='*.rs' \
        shm-transport fscore-daemon fuse-frontend control-cli harness \
        | grep -vE '^shm-transport/src/(mem/|lib\.rs:|loom_models\.rs:)'
}

scripts() {
    local script
    for script in .ci/setup .ci/run harness/*.sh; do
        bash -n "$script" || return 1
    done
    shellcheck .ci/setup .ci/run harness/*.sh
}

step format cargo fmt --all --check || true
step lines line_count || true
step unsafe-places unsafe_places || true
if command -v shellcheck >/dev/null 2>&1; then
    step scripts scripts || true
else
    skip scripts "no shellcheck"
fi
if python3 -c 'import tomllib' >/dev/null 2>&1; then
    step licences python3 .ci/check-licences.py || true
    step links python3 .ci/check-links.py || true
else
    skip licences "no Python 3.11"
    skip links "no Python 3.11"
fi
if command -v cargo-deny >/dev/null 2>&1; then
    step deny cargo deny --locked check licenses bans sources || true
    if cargo deny --locked fetch db >"$logs/advisory-db.log" 2>&1; then
        step advisories cargo deny --locked check advisories || true
    else
        skip advisories "the advisory database cannot be fetched (see $logs/advisory-db.log)"
    fi
else
    skip deny "no cargo-deny"
    skip advisories "no cargo-deny"
fi
step clippy cargo clippy --workspace --all-targets --locked -- -D warnings || true
step rustdoc env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked || true

tests unit 1 cargo test --workspace --exclude harness --locked --no-fail-fast || true

# The mount tests drive the built binaries, and time themselves: nothing else runs beside them. The
# ignored one builds this workspace on a branch.
if step build cargo build --workspace --bins --locked; then
    tests mounts 1 cargo test -p harness --locked --no-fail-fast -- --include-ignored --show-output || true
else
    skip mounts "the workspace does not build"
fi

# Suites that others wrote, on a real mount; what the host's own file system does beside it counts. They are compiled
# into target/tools the first time.
if [ "$(id -u)" -ne 0 ] || [ ! -e /dev/fuse ]; then
    skip pjdfstest "not root, or no /dev/fuse"
    skip fsx "not root, or no /dev/fuse"
else
    if [ -e /usr/include/sys/acl.h ]; then
        step pjdfstest "$target/debug/agentfs-harness" pjdfstest --logs "$logs" || true
    else
        skip pjdfstest "no libacl1-dev to compile it with"
    fi
    step fsx "$target/debug/agentfs-harness" fsx --ops 10000 --logs "$logs" || true
fi

# Models of the lock-free code, explored by loom in every interleaving up to its bounds.
tests loom 1 env RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}" \
    CARGO_TARGET_DIR="$target/loom" \
    cargo test -p shm-transport --release --locked --lib loom || true

# A system that boots, mounts by fstab or by units, is killed at, powered off, loses its power, and boots again.
if why="$(bash harness/booted.sh prepare)"; then
    step booted bash harness/booted.sh run "$target/debug" || true
    step systemd bash harness/booted.sh units "$target/debug" || true
else
    skip booted "$why"
    skip systemd "$why"
fi

# The fuzz targets' functions run as the test `corpus` above; here they run guided by coverage.
if command -v c++ >/dev/null 2>&1; then
    for fuzz in decode attach; do
        step "fuzz-$fuzz" bash harness/fuzz.sh "$fuzz" 30 || true
    done
else
    skip fuzz "no C++ compiler, so the fuzz targets ran only over mutated seeds"
fi

printf '\n'
if [ "$skipped" -gt 0 ]; then
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
    printf '%d passed, %d failed\n' "$passed" "$failed"
fi
[ "$failed" -eq 0 ]
