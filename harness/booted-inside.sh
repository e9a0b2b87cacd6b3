#!/bin/bash
# Runs as a service in the system that booted.sh boots, at each of its boots.
set -euo pipefail
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"' ERR

say() { printf '%s\n' "$*"; }

# is WHAT EXPECTED ACTUAL
is() {
    if [ "$2" != "$3" ]; then
        say "FAILED: $1: expected ${2@Q}, got ${3@Q}"
        exit 1
    fi
    say "ok: $1"
}

# until_true COMMAND...: within half a minute.
until_true() {
    local n
    for n in $(seq 300); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    say "FAILED: never true: $*"
    return 1
}

# pgrep_exact NAME ARG: ids of the processes of that program with that argument.
pgrep_exact() {
    local pid found=1
    for pid in /proc/[0-9]*; do
        if [ "$(basename "$(readlink "$pid/exe" 2>/dev/null)")" = "$1" ] \
            && tr '\0' '\n' <"$pid/cmdline" 2>/dev/null | grep -qxF -e "$2"; then
            basename "$pid"
            found=0
        fi
    done
    return "$found"
}

as_user() { runuser -l tester -c "$1"; }

first() {
    is "the branch is mounted at boot" active "$(systemctl is-active mnt-work.mount)"
    is "the read-only one as well" active "$(systemctl is-active mnt-look.mount)"
    is "it shows the base" "$(printf 'file\nsrc')" "$(ls /mnt/work)"
    if touch /mnt/look/new 2>/dev/null; then
        say "FAILED: the read-only mount can be written"
        exit 1
    fi
    echo branch >/mnt/work/file
    rm -r /mnt/work/src

    # A program that writes all the time sees no error when the processes die under it.
    (
        set -e
        exec 7>>/mnt/work/log
        for n in $(seq 100000); do
            echo "$n" >&7
            echo "$n" >/mnt/work/last
            [ ! -e /run/enough ] || break
        done
        echo "$n" >/run/written
    ) &
    local writer=$! holder
    holder="$(pgrep_exact agentfs-fuse --hold)"
    sleep 0.5
    for victim in agentfsd agentfs-fuse both; do
        # shellcheck disable=SC2046
        if [ "$victim" != agentfs-fuse ]; then kill -9 $(pgrep_exact agentfsd --store); fi
        # shellcheck disable=SC2046
        if [ "$victim" != agentfsd ]; then kill -9 $(pgrep_exact agentfs-fuse --serve); fi
        # Alive again, for the next victim.
        until_true pgrep_exact agentfsd --store >/dev/null
        until_true pgrep_exact agentfs-fuse --serve >/dev/null
        cat /mnt/work/file >/dev/null
        sleep 0.3
    done
    touch /run/enough
    wait "$writer"
    is "nothing that was written is lost" "$(cat /run/written)" "$(tail -n 1 /mnt/work/log)"
    is "not a line of it" "$(cat /run/written)" "$(wc -l </mnt/work/log)"
    is "the mount unit lives" active "$(systemctl is-active mnt-work.mount)"

    # Each unit can be stopped and started, whichever of them started the holder.
    for unit in mnt-look mnt-work; do
        systemctl stop "$unit.mount"
        is "$unit is unmounted" inactive "$(systemctl is-active "$unit.mount" || true)"
        is "the holder stays" "$holder" "$(pgrep_exact agentfs-fuse --hold)"
        systemctl start "$unit.mount"
    done
    is "the branch is as it was" branch "$(cat /mnt/work/file)"

    # A user without privilege.
    useradd --create-home --shell /bin/bash tester
    as_user 'mkdir p at && echo host >p/file'
    is "a user runs a command on a branch" "host" \
        "$(as_user 'agentfs run --base ~/p --branch r --no-summary -- bash -c "cat file; echo branch >file"')"
    is "the user's base is untouched" host "$(as_user 'cat p/file')"
    as_user 'agentfs mount --base ~/p --branch m ~/at'
    as_user 'echo mounted >at/file'
    is "a user's mount is through fusermount3" 1 "$(grep -c ' /home/tester/at fuse.agentfs .*user_id=[1-9]' /proc/mounts)"
    as_user 'agentfs umount ~/at'
    as_user 'agentfs mount --branch m ~/at && fusermount3 -u ~/at'
    as_user 'agentfs commit r'
    is "the commit of a user" branch "$(as_user 'cat p/file')"
    # Mounted and in use at poweroff.
    as_user 'agentfs mount --branch m ~/at'
    as_user 'cd at && nohup sleep 1000 >/dev/null 2>&1 &'
    (cd /mnt/work && exec sleep 1000) &
    echo last >/mnt/work/last
    sync /mnt/work/last
    echo unsynced >/mnt/work/unsynced
}

second() {
    is "the branch is mounted again" active "$(systemctl is-active mnt-work.mount)"
    is "what was written before poweroff is there" last "$(cat /mnt/work/last)"
    is "what was not synchronised as well" unsynced "$(cat /mnt/work/unsynced)"
    is "the lines" "$(tail -n 1 /mnt/work/log)" "$(wc -l </mnt/work/log)"
    is "a user's branch" mounted "$(as_user 'agentfs mount --branch m ~/at && cat at/file' | tail -n 1)"
    # The power goes with everything mounted.
    echo cut >/mnt/work/cut
    sync /mnt/work/cut
    as_user 'echo cut >at/file; sync at/file'
}

third() {
    is "the branch is mounted after the power was cut" active "$(systemctl is-active mnt-work.mount)"
    is "what was synchronised before is there" cut "$(cat /mnt/work/cut)"
    is "a user's branch as well" cut \
        "$(as_user 'agentfs mount --branch m ~/at && cat at/file && fusermount3 -u ~/at' | tail -n 1)"
    systemctl stop mnt-work.mount
    agentfs diff work | grep -q '^D.*src'
    agentfs commit work
    is "the commit" branch "$(cat /data/project/file)"
    systemctl start mnt-work.mount
    is "the branch goes on" branch "$(cat /mnt/work/file)"
}

boots="$(cat /var/boots 2>/dev/null || echo 0)"
boots="$((boots + 1))"
echo "$boots" >/var/boots
sync /var/boots
case "$boots" in
    1) first ;;
    2) second ;;
    *) third ;;
esac
say "booted-inside: all well"
# The power is cut here, or the service ends and powers off.
if [ "$boots" -eq 2 ]; then sleep 60; fi
