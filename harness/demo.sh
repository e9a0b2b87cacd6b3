#!/usr/bin/env bash
# Shows AgentFS on a real project: this checkout. Sets up what is missing, builds a release, lets a
# command work on a branch of the checkout, shows what it changed and that the checkout did not, and
# takes such changes back into a copy of the checkout. The checkout itself is never changed.
#
# Usage: bash harness/demo.sh [--no-setup]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
project="$PWD"
target="${CARGO_TARGET_DIR:-$project/target}"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
    printf '  $ %s\n' "$*"
    "$@" 2>&1 | sed 's/^/    /'
}
# The changes of a branch, at most so many, those below target/ left out.
changes_of() {
    agentfs diff "$1" | awk -v most="$2" '!/[ \t]target\// && n++ < most { print "    " $0 }'
}

if [ "${1:-}" != "--no-setup" ]; then
    step "Setting up what is missing"
    bash .ci/setup 2>&1 | sed 's/^/    /'
fi

step "Building the release (the first time takes some minutes)"
cargo build --release --workspace --bins --locked
PATH="$target/release:$PATH"
export PATH

# A store of its own, so that nothing of yours is touched.
scratch="$(mktemp -d "${TMPDIR:-/tmp}/agentfs-demo.XXXXXX")"
export AGENTFS_STORE="$scratch/store"
export AGENTFS_ALLOW_BASE="$project:$scratch"
unset AGENTFS_SOCKET
clean() {
    agentfs daemon stop --force >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap clean EXIT

# What the checkout holds, build output and git's own files aside, as one checksum.
fingerprint() {
    find "$1" \( -path "$1/target" -o -path "$1/.git" \) -prune -o -type f -print0 \
        | sort -z | xargs -0 sha256sum | sed "s|$1/||" | sha256sum | cut -c1-16
}
before="$(fingerprint "$project")"

step "1. A branch of this checkout: instant, no copy, untracked files and build output included"
show agentfs branch create demo --base "$project"

step "2. A command works on the branch, mounted at the checkout's own path for it alone"
printf '     It edits a source file, builds, deletes a directory. A summary follows it.\n'
# The single quotes are meant: this runs inside the branch.
# shellcheck disable=SC2016
work='
    echo "inside, $PWD holds $(find . -name "*.rs" -not -path "./target/*" | wc -l) Rust files"
    echo "// Written on a branch." >> control-cli/src/main.rs
    cargo build --release --locked --offline -p control-cli 2>&1 | tail -n 2
    rm -rf specs
    echo "notes of the agent" > NOTES.txt
'
show env -u CARGO_TARGET_DIR agentfs run --base "$project" --branch demo -- bash -c "$work"

step "3. The checkout itself: untouched"
after="$(fingerprint "$project")"
printf '    checksum before %s, after %s\n' "$before" "$after"
if [ "$before" != "$after" ]; then
    printf '    The checkout changed. If you did not edit it meanwhile, that is a defect.\n' >&2
    exit 1
fi
show ls -d specs

step "4. What the branch changed (build output aside)"
show agentfs diff demo --stat
changes_of demo 30

step "5. What a commit would do. Nothing is applied"
agentfs commit demo --dry-run | awk '!/[ \t]target\// && n++ < 15 { print "    " $0 }'

step "6. A commit for real, into a copy of the checkout"
copy="$scratch/copy"
mkdir "$copy"
tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$copy"
show agentfs run --base "$copy" --branch take -- bash -c 'echo "notes" > NOTES.txt; rm LICENSE; sed -i 1d README.md'
show agentfs diff take
show agentfs commit take
printf '    in the copy now: NOTES.txt says "%s", LICENSE %s\n' \
    "$(cat "$copy/NOTES.txt")" "$([ -e "$copy/LICENSE" ] && echo 'is still there' || echo 'is gone')"
[ "$(cat "$copy/NOTES.txt")" = notes ] && [ ! -e "$copy/LICENSE" ]

step "7. Throwing the first branch away"
show agentfs discard demo
show agentfs branch list
show agentfs status

step "8. Stopping the daemon, removing the demo's store"
show agentfs daemon stop
printf '\nDone. The checkout is as it was: %s\n' "$(fingerprint "$project")"
