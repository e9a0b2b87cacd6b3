# AgentFS: every task by name. `just` lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes
default:
    @just --list --unsorted

# Install what building, testing and mounting needs (Debian packages; needs root or sudo)
setup:
    bash .ci/setup --tests

# Debug build of all four programs
build:
    cargo build --workspace --bins --locked

# Optimized build of all four programs, into target/release
release:
    cargo build --release --workspace --bins --locked

# Install the release programs below PREFIX, the mount helper where mount(8) looks for it, and the units of systemd
install prefix="/usr/local" helpers="/usr/sbin" units="/etc/systemd/system" user_units="/etc/systemd/user": release
    install -d "{{prefix}}/bin" "{{helpers}}"
    install -m 755 target/release/agentfs target/release/agentfsd target/release/agentfs-fuse "{{prefix}}/bin/"
    ln -sf "$(realpath "{{prefix}}")/bin/agentfs-fuse" "{{helpers}}/mount.fuse.agentfs"
    ln -sf "$(realpath "{{prefix}}")/bin/agentfs-fuse" "{{helpers}}/mount.agentfs"
    ln -sf agentfs "{{prefix}}/bin/agentfs-control-cli"
    install -d "{{units}}" "{{user_units}}" /etc/agentfs/mounts
    install -m 644 fscore-daemon/systemd/agentfs* fuse-frontend/systemd/agentfs* "{{units}}/"
    install -m 644 fscore-daemon/systemd/user/* "{{user_units}}/"
    sed -i "s|/usr/local/bin|$(realpath "{{prefix}}")/bin|" "{{units}}"/agentfsd.service "{{units}}"/agentfs-mount@.service "{{user_units}}"/agentfsd.service
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

# Show AgentFS on this checkout: branch, work, diff, commit into a copy, discard
demo:
    bash harness/demo.sh

# Everything that continuous integration runs
test:
    bash harness/test.sh

# Unit and property tests of the libraries and programs: no mount, no root
test-unit *args:
    cargo test --workspace --exclude harness --locked {{args}}

# Tests on real mounts: needs /dev/fuse
test-mounts *args: build
    cargo test -p harness --locked {{args}}

# pjdfstest, whole, on a branch and natively on ext4 in one run; logs/pjdfstest-TIMESTAMP/summary.json (root)
test-pjdfstest-full: build
    target/debug/agentfs-harness pjdfstest

# Groups of pjdfstest (`chmod`, `rename` …) on a mount that is there already
test-pjdfs-subset mount *groups: build
    target/debug/agentfs-harness pjdfstest --mount "{{mount}}" {{groups}}

# fsx on a branch in each way of doing input and output, also under snapshots: `just test-fsx --ops 10000000` (root)
test-fsx *args: build
    target/debug/agentfs-harness fsx {{args}}

# A suite by its name, with logs/NAME-TIMESTAMP/summary.json and results.jsonl; without a name they are listed
test-suite *name: build
    target/debug/agentfs-harness suite {{name}}

# The suites of `test-suite`, each as a recipe
test-fuse-basic-ops: (test-suite "fuse-basic-ops")
test-fuse-negative-ops: (test-suite "fuse-negative-ops")
test-fuse-overlay-ops: (test-suite "fuse-overlay-ops")
test-fuse-control-plane: (test-suite "fuse-control-plane")
test-fuse-mount-cycle: (test-suite "fuse-mount-cycle")
test-fuse-mount-failures: (test-suite "fuse-mount-failures")
test-fuse-mount-concurrent: (test-suite "fuse-mount-concurrent")
test-fuse-xattrs: (test-suite "fuse-xattrs")
test-fuse-mknod: (test-suite "fuse-mknod")
test-fuse-mount-options: (test-suite "fuse-mount-options")
test-fuse-advanced-io: (test-suite "fuse-advanced-io")
test-fuse-security-permissions: (test-suite "fuse-security-permissions")
test-fuse-security-privileges: (test-suite "fuse-security-privileges")
test-fuse-security-input: (test-suite "fuse-security-input")
test-fuse-security-sandbox: (test-suite "fuse-security-sandbox")
test-fuse-security-robustness: (test-suite "fuse-security-robustness")
test-fuse-stress: (test-suite "fuse-stress")
test-fuse-compat: (test-suite "fuse-compat")

# Models of the lock-free code, every interleaving up to its bounds
loom *args:
    RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}" CARGO_TARGET_DIR=target/loom \
        cargo test -p shm-transport --release --locked --lib loom {{args}}

# Fuzz TARGET (decode or attach) for SECONDS; needs a C++ compiler
fuzz target="decode" seconds="60":
    bash harness/fuzz.sh {{target}} {{seconds}}

# A system in a container that mounts by fstab, is killed at, and boots again (root, debootstrap, systemd-nspawn)
test-booted: build
    bash harness/booted.sh prepare
    bash harness/booted.sh run target/debug

# The units of systemd in such a system: killed, restarted, replaced by a new build, hung, stopped, powered off
test-systemd: build
    bash harness/booted.sh prepare
    bash harness/booted.sh units target/debug

# Format, clippy and rustdoc, warnings are errors
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Format the code
fmt:
    cargo fmt --all

# Licences, bans, sources and advisories of the dependencies (needs cargo-deny; licences also without)
deny:
    python3 .ci/check-licences.py
    cargo deny --locked check

# Benchmarks against the host directory (release build; see specs/performance.md)
bench *args: release
    target/release/agentfs-harness bench {{args}}

# Kill daemon, frontends and both under real programs, and check that none of them sees it
# (release build; `just chaos --help` lists what can be chosen)
chaos *args: release
    target/release/agentfs-harness chaos {{args}}

# API documentation of the workspace
doc:
    cargo doc --workspace --no-deps --locked

# Remove everything that was built
clean:
    cargo clean
