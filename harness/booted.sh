#!/usr/bin/env bash
# AgentFS on a booted system: a small Debian with systemd, in a container, mounts branches by /etc/fstab,
# has its processes killed, is powered off, boots, loses its power, and boots again. What it does inside stands in booted-inside.sh.
#
# Usage: bash harness/booted.sh prepare          makes the system's archive; prints why, if it cannot
#        bash harness/booted.sh run BIN_DIR      boots it three times, with the programs of BIN_DIR
#        bash harness/booted.sh units BIN_DIR    boots it twice, with the units of systemd: booted-units-inside.sh
# Needs root, debootstrap and systemd-nspawn. The archive is kept in $AGENTFS_TEST_CACHE.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${AGENTFS_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/agentfs-test}"
packages="systemd,systemd-sysv,dbus,fuse3,libpam-systemd"
# The system that the programs were built on: its C library is theirs.
# shellcheck source=/dev/null
suite="$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")"
archive="$cache/$suite-${packages//,/-}-1.tar"
# A boot takes seconds; a busy machine much longer.
boot_limit=180

prepare() {
    local tool
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root"
        return 1
    fi
    if [ ! -e /dev/fuse ]; then
        echo "no /dev/fuse"
        return 1
    fi
    for tool in debootstrap systemd-nspawn; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            echo "no $tool"
            return 1
        fi
    done
    if [ -z "$suite" ] || [ ! -e "/usr/share/debootstrap/scripts/$suite" ]; then
        echo "debootstrap does not know this system (${suite:-no code name})"
        return 1
    fi
    [ ! -e "$archive" ] || return 0
    mkdir -p "$cache"
    scratch="$(mktemp -d)"
    if ! timeout 600 debootstrap --variant=minbase --include="$packages" "$suite" "$scratch/root" >"$scratch/log" 2>&1; then
        echo "debootstrap fails: $(tail -n 1 "$scratch/log")"
        return 1
    fi
    rm -rf "$scratch"/root/var/cache/apt/archives/*.deb "$scratch"/root/var/lib/apt/lists/*
    tar -C "$scratch/root" --numeric-owner -cf "$scratch/tar" .
    mv "$scratch/tar" "$archive.$$"
    mv "$archive.$$" "$archive"
}

# install_into ROOT BIN_DIR INSIDE: the programs, and the service that runs INSIDE at each boot.
install_into() {
    local root="$1" bin="$2" inside="$3" program
    for program in agentfs agentfsd agentfs-fuse; do
        install -m 755 "$bin/$program" "$root/usr/local/bin/"
    done
    ln -s /usr/local/bin/agentfs-fuse "$root/usr/sbin/mount.fuse.agentfs"
    install -m 755 "$here/$inside" "$root/usr/local/bin/booted-inside"
    # The journal of all boots is read from outside.
    mkdir -p "$root/var/log/journal"
    printf '%s\n' '[Journal]' 'Storage=persistent' 'RateLimitBurst=0' >>"$root/etc/systemd/journald.conf"
    mkdir -p "$root/var/data/project/src" "$root/data" "$root/mnt/work" "$root/mnt/look"
    printf 'host\n' >"$root/var/data/project/file"
    printf 'host\n' >"$root/var/data/project/src/gone"
    # Bases on a file system that is mounted at boot itself.
    printf '/var/data /data none bind 0 0\n' >>"$root/etc/fstab"
    cat >"$root/etc/systemd/system/booted.service" <<'END'
[Unit]
Description=What is tested of AgentFS
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/bin/booted-inside
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=append:/var/log/booted
StandardError=inherit
TimeoutStartSec=170
END
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../booted.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# Two branches by fstab.
fstab_into() {
    # Without sessions: the runtime directory of a user whose processes live at poweroff is in use, whoever they are.
    sed -i '/pam_systemd/d' "$1"/etc/pam.d/*
    cat >>"$1/etc/fstab" <<'END'
work /mnt/work fuse.agentfs base=/data/project,allow_base=/data,x-systemd.requires-mounts-for=/data 0 0
look /mnt/look fuse.agentfs base=/data/project,allow_base=/data,x-systemd.requires-mounts-for=/data,ro,nofail 0 0
END
}

# The same two by units.
units_into() {
    local root="$1"
    install -m 644 "$here"/../fscore-daemon/systemd/agentfs* "$here"/../fuse-frontend/systemd/agentfs* "$root/etc/systemd/system/"
    install -m 644 "$here"/../fscore-daemon/systemd/user/* "$root/etc/systemd/user/"
    mkdir -p "$root/etc/agentfs/mounts"
    printf 'AGENTFS_ALLOW_BASE=/data:/srv\n' >"$root/etc/agentfs/agentfsd.conf"
    printf '%s\n' 'base = /data/project' 'mountpoint = /mnt/work' >"$root/etc/agentfs/mounts/work.conf"
    printf '%s\n' '# to look at' 'base = /data/project' 'mountpoint = /mnt/look' 'options = ro' \
        >"$root/etc/agentfs/mounts/look.conf"
    systemctl --root="$root" --quiet enable agentfsd.service agentfs-mount@work.service agentfs-mount@look.service
}

fail() {
    printf 'FAILED: %s\n' "$*"
    failed=1
}

# container N: the system, in the foreground.
container() {
    timeout --foreground --kill-after=10 "$boot_limit" systemd-nspawn --quiet --directory="$scratch/root" \
        --machine="agentfs-$$" --bind="$scratch/fuse:/dev/fuse" --capability=all --register=no --keep-unit \
        --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
        --console=pipe --boot </dev/null >"$scratch/console.$1" 2>&1
}

# after N STARTED: what the system said of itself.
after() {
    rmdir "/run/systemd/nspawn/propagate/agentfs-$$" 2>/dev/null || true
    printf -- '-- boot %s, %d s\n' "$1" "$((SECONDS - $2))"
    cat "$scratch/root/var/log/booted"
    grep -qx "booted-inside: all well" "$scratch/root/var/log/booted" || fail "boot $1: not all is well inside"
    journalctl --directory="$scratch/root/var/log/journal" --boot=-0 --no-pager --output=short-monotonic \
        >"$scratch/journal.$1"
    if grep -E 'Failed (un)?mounting|(un)?mounting timed out|timed out. Killing|panicked at' "$scratch/journal.$1"; then
        fail "boot $1: see above"
    fi
}

# boot N: boots the system and waits for its poweroff.
boot() {
    local n="$1" started="$SECONDS"
    : >"$scratch/root/var/log/booted"
    container "$n" || fail "boot $n does not end by itself within $boot_limit s"
    after "$n" "$started"
}

# unmounted N UNIT...: boot N ended with the units' mounts taken away.
unmounted() {
    local n="$1" unit
    shift
    for unit in "$@"; do
        grep -q "$unit: Deactivated successfully" "$scratch/journal.$n" \
            || fail "boot $n: $unit is not unmounted at poweroff"
    done
}

# init_below PID: the init of the system that was started below this process: every process in there ends with it. It is
# the one that has the number 1 among its own.
init_below() {
    local children child
    # The line has no end; of a process that is gone there is none.
    read -ra children 2>/dev/null <"/proc/$1/task/$1/children" || true
    for child in "${children[@]}"; do
        if grep -qE '^NSpid:.*[[:space:]]1$' "/proc/$child/status" 2>/dev/null; then
            echo "$child"
        else
            init_below "$child"
        fi
    done
}

# cut N: boots the system and takes its power away when it says so.
cut() {
    local n="$1" started="$SECONDS" init
    : >"$scratch/root/var/log/booted"
    container "$n" &
    while [ "$((SECONDS - started))" -lt "$boot_limit" ] && ! grep -q '^booted-inside:' "$scratch/root/var/log/booted"; do
        sleep 0.1
    done
    init="$(init_below "$!")"
    if [ -z "$init" ]; then fail "boot $n: the system is not there to be cut"; fi
    # nspawn's death alone would leave the system running, and with it its hold on the store.
    kill -9 "$init" || fail "boot $n: the system cannot be cut"
    wait "$!" || true
    after "$n" "$started"
    if grep 'Reached target.*Power' "$scratch/journal.$n"; then fail "boot $n: it was powered off, not cut"; fi
}

clean_up() {
    if [ -n "${scratch:-}" ]; then
        rm -rf --one-file-system "$scratch"
    fi
}

# begin BIN_DIR INSIDE: the system as it is before its first boot.
begin() {
    failed=0
    scratch="$(mktemp -d /var/tmp/agentfs-booted.XXXXXX)"
    mkdir "$scratch/root"
    tar -C "$scratch/root" --numeric-owner -xf "$archive"
    # Everybody in the container may open it; the host's own stays as it is.
    mknod "$scratch/fuse" c 10 229
    chmod 666 "$scratch/fuse"
    install_into "$scratch/root" "$1" "$2"
}

# The verdict.
finish() {
    if [ -n "${AGENTFS_TEST_KEEP:-}" ]; then cp "$scratch"/journal.* "$scratch"/console.* "$AGENTFS_TEST_KEEP"; fi
    if [ "$failed" -ne 0 ]; then
        tail -n 150 "$scratch"/journal.*
        cat "$scratch"/root/var/lib/agentfs/log/*.log || true
    fi
    return "$failed"
}

run() {
    begin "$1" booted-inside.sh
    fstab_into "$scratch/root"
    boot 1
    unmounted 1 mnt-work.mount mnt-look.mount
    [ "$(cat "$scratch/root/var/data/project/file")" = host ] || fail "the base was changed"
    [ -e "$scratch/root/var/data/project/src/gone" ] || fail "the base was changed"
    cut 2
    boot 3
    unmounted 3 mnt-work.mount mnt-look.mount
    [ "$(cat "$scratch/root/var/data/project/file")" = branch ] || fail "the commit is not in the base"
    finish
}

units() {
    begin "$1" booted-units-inside.sh
    units_into "$scratch/root"
    boot 1
    unmounted 1 agentfs-mount@work.service agentfs-mount@look.service agentfsd.service
    boot 2
    finish
}

scratch=
trap clean_up EXIT
case "${1:-}" in
    prepare) prepare ;;
    run | units) "$1" "$(realpath "$2")" ;;
    *)
        echo "usage: booted.sh prepare | run BIN_DIR | units BIN_DIR" >&2
        exit 2
        ;;
esac
