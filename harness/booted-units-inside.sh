#!/bin/bash
# Runs as a service in the system that booted.sh boots with the units of systemd, at each of its boots.
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
    for n in $(seq 600); do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    say "FAILED: never true: $*"
    return 1
}

daemon=agentfsd.service
work=agentfs-mount@work.service
look=agentfs-mount@look.service

# of UNIT PROPERTY
of() { systemctl show --value -p "$2" "$1"; }
active() { systemctl is-active "$1" || true; }
is_active() { [ "$(active "$1")" = "$2" ]; }
mounted() { awk -v at="$1" '$2 == at && $3 == "fuse.agentfs"' /proc/mounts | wc -l; }
# Five descriptors are a mount: the manager has these of each, and no other.
stored() { printf '%s %s %s' "$(of "$work" NFileDescriptorStore)" "$(of "$look" NFileDescriptorStore)" \
    "$(of "$daemon" NFileDescriptorStore)"; }

# replaced UNIT PID: another process is the unit's, and serves.
replaced() {
    local pid
    pid="$(of "$1" MainPID)"
    [ "$pid" != "$2" ] && [ "$pid" != 0 ] && [ "$(active "$1")" = active ]
}

# A program that writes all the time, and the time of each of its turns. It sees no error.
begin_writing() {
    rm -f /run/enough /run/times
    (
        set -e
        exec 7>>/mnt/work/log 8>>/run/times
        n="$(wc -l </mnt/work/log)"
        while [ ! -e /run/enough ]; do
            n=$((n + 1))
            echo "$n" >&7
            echo "$n" >/mnt/work/last
            [ "$(</mnt/work/last)" = "$n" ]
            mkdir /mnt/work/once
            rmdir /mnt/work/once
            echo "$EPOCHREALTIME" >&8
        done
        echo "$n" >/run/written
    ) &
    writer=$!
    until_true [ -s /run/times ]
}

end_writing() {
    touch /run/enough
    wait "$writer"
    is "$1: not a line is lost or there twice" "$(cat /run/written) $(cat /run/written)" \
        "$(tail -n 1 /mnt/work/log) $(wc -l </mnt/work/log)"
}

# pause WHAT MOST COMMAND...: the longest turn of the writer while the command runs and just after it.
pause() {
    local what="$1" most="$2" from ms
    shift 2
    from="$(wc -l </run/times)"
    "$@"
    sleep 0.3
    until_true more_than "$from"
    ms="$(tail -n "+$from" /run/times | awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 }
        END { printf "%d", most * 1000 }')"
    if [ "$ms" -gt "$most" ]; then
        say "FAILED: $what: a pause of $ms ms, at most $most are allowed"
        exit 1
    fi
    say "ok: $what: the program paused for $ms ms"
}
more_than() { [ "$(wc -l </run/times)" -gt "$1" ]; }

kill_and_wait() {
    local unit pid
    local -A pids
    for unit in "$@"; do
        pids[$unit]="$(of "$unit" MainPID)"
    done
    kill -9 "${pids[@]}"
    for unit in "$@"; do
        pid="${pids[$unit]}"
        until_true replaced "$unit" "$pid"
    done
}

# A new build: another file, moved over the old one.
new_build() {
    cp "/usr/local/bin/$1" "/usr/local/bin/$1.new"
    printf 'new build' >>"/usr/local/bin/$1.new"
    mv "/usr/local/bin/$1.new" "/usr/local/bin/$1"
    shift
    systemctl restart "$@"
}

kills() {
    local round
    begin_writing
    for round in $(seq 7); do
        kill_and_wait "$daemon"
        kill_and_wait "$work"
        kill_and_wait "$daemon" "$work"
    done
    end_writing "21 times killed"
    is "no descriptor is lost or left over" "$all" "$(stored)"
    is "$round rounds of frontends that died" 14 "$(of "$work" NRestarts)"
}

restarts() {
    local pid
    begin_writing
    pause "restart of the daemon" 5000 systemctl restart agentfsd
    pause "restart of the frontend" 5000 systemctl restart "$work"
    pause "restart of both" 5000 systemctl restart "$work" agentfsd
    pause "a new build of the daemon" 5000 new_build agentfsd agentfsd
    pause "a new build of the frontend" 5000 new_build agentfs-fuse "$work" "$look"
    is "the new builds run" "new build new build" \
        "$(tail -c 9 "/proc/$(of "$daemon" MainPID)/exe") $(tail -c 9 "/proc/$(of "$work" MainPID)/exe")"
    # A daemon that does nothing any more.
    mkdir -p /run/systemd/system/agentfsd.service.d
    printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/agentfsd.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart agentfsd
    pid="$(of "$daemon" MainPID)"
    sleep 3
    is "a daemon that lives is left alone" "$pid" "$(of "$daemon" MainPID)"
    kill -STOP "$pid"
    pause "a daemon that hangs" 10000 until_true replaced "$daemon" "$pid"
    rm -r /run/systemd/system/agentfsd.service.d
    systemctl daemon-reload
    end_writing "restarts"
    is "the mounts are those of before" "$all" "$(stored)"
}

# shown: what is said of the mount on /mnt/work.
shown() { agentfs mounts | grep ' /mnt/work ' || true; }
is_shown() { shown | grep -Eq "$1"; }
says() { of "$work" StatusText | grep -Eq "$1"; }

# Nobody starts the daemon: programs wait, and that is shown by the unit, in the list of mounts and in the status.
waiting() {
    local asked json
    systemctl stop agentfsd.socket "$daemon"
    mkdir /mnt/work/waited &
    asked=$!
    until_true is_shown 'reconnecting, [1-9][0-9]* requests? held, for [0-9]+ seconds?'
    until_true says '^reconnecting, [1-9][0-9]* requests held$'
    until_true is_shown 'held, for ([3-9]|[0-9]{2,}) seconds'
    json="$(agentfs --json mounts | tr -d ' \n' | grep -o '{[^{}]*"mountpoint":"/mnt/work"[^{}]*}')"
    is "the state for programs" reconnecting "$(grep -o '"state":"[a-z]*"' <<<"$json" | cut -d '"' -f 4)"
    is "and how much waits" yes \
        "$(grep -Eq '"reconnecting_seconds":[1-9]' <<<"$json" && grep -Eq '"requests_held":[1-9]' <<<"$json" && echo yes)"
    is "who looks starts no daemon" inactive "$(active "$daemon")"
    systemctl start agentfsd.socket "$daemon"
    wait "$asked"
    is "what waited is done" yes "$([ -d /mnt/work/waited ] && echo yes)"
    rmdir /mnt/work/waited
    until_true says '^branch work on /mnt/work$'
    is "and nothing is said to wait" 0 "$(shown | grep -c reconnecting || true)"
    is "the manager has what it had" "$all" "$(stored)"
}

# code COMMAND...: its exit code; what it says is in /run/said.
code() {
    local code=0
    "$@" >/run/said 2>&1 || code=$?
    printf '%s' "$code"
}

upgrades() {
    local pids
    pids="$(of "$daemon" MainPID) $(of "$work" MainPID)"
    is "an upgrade is left to the manager" 75 "$(code agentfs daemon upgrade)"
    grep -q "the installed programs fit: systemctl restart agentfsd.service 'agentfs-mount@\*.service'" /run/said
    cp /usr/local/bin/agentfsd /run/agentfsd.good
    agentfsd --versions | sed 's/"store":[0-9]*/"store":99/' >/run/versions
    printf '#!/bin/sh\ncat /run/versions\n' >/usr/local/bin/agentfsd.new
    chmod 755 /usr/local/bin/agentfsd.new
    mv /usr/local/bin/agentfsd.new /usr/local/bin/agentfsd
    is "a build of another store format is refused" 76 "$(code agentfs daemon upgrade)"
    grep -q 'store format 99 instead of' /run/said
    install -m 755 /run/agentfsd.good /usr/local/bin/agentfsd
    rm /run/agentfsd.good
    is "and nothing was touched" "$pids" "$(of "$daemon" MainPID) $(of "$work" MainPID)"
}

by_hand() {
    local pid
    pid="$(of "$daemon" MainPID)"
    mkdir -p /srv/p /mnt/hand
    echo host >/srv/p/file
    is "the daemon says who keeps it" true "$(agentfs --json status | grep -o '"managed": *true' | head -n 1 | grep -o true)"
    if agentfs daemon stop 2>/run/said; then
        say "FAILED: agentfs daemon stop stops a daemon that comes back"
        exit 1
    fi
    grep -q 'systemctl stop agentfsd.socket agentfsd.service' /run/said
    is "agentfs run" host "$(agentfs run --base /srv/p --branch hand --no-summary -- cat file)"
    agentfs mount --branch hand /mnt/hand
    kill_and_wait "$daemon"
    is "a mount by hand outlives the daemon" host "$(cat /mnt/hand/file)"
    pid="$(of "$daemon" MainPID)"
    kill -9 "$(agentfs --json mounts | grep -o '"frontend_pid": *[0-9]*' | grep -o '[0-9]*' | while read -r frontend; do
        [ "$frontend" = "$(of "$work" MainPID)" ] || [ "$frontend" = "$(of "$look" MainPID)" ] || echo "$frontend"
    done)"
    is "and its frontend" host "$(cat /mnt/hand/file)"
    if agentfs mount --base /var/tmp --branch elsewhere /mnt/hand/.. 2>/run/said; then exit 1; fi
    agentfs umount /mnt/hand
    agentfs daemon stop
    is "the holder kept the manager's daemon, and left it alone" "$pid" "$(of "$daemon" MainPID)"
}

mounts() {
    local frontend
    systemctl stop "$work"
    is "a stopped unit is unmounted" "inactive 0 0" \
        "$(active "$work") $(mounted /mnt/work) $(of "$work" NFileDescriptorStore)"
    is "the daemon knows of it" 0 "$(agentfs --json mounts | grep -c /mnt/work || true)"
    systemctl start "$work"
    is "it is as it was" "$(cat /run/written)" "$(cat /mnt/work/last)"
    # Unmounted by hand: the unit ends, and nothing stays.
    umount /mnt/look
    until_true is_active "$look" inactive
    is "unmounted by hand" "inactive 0" "$(active "$look") $(of "$look" NFileDescriptorStore)"
    # Unmounted while it has no frontend: what the manager keeps is of no use, and is given up.
    mkdir -p "/run/systemd/system/$look.d"
    printf '[Service]\nRestartSec=4s\n' >"/run/systemd/system/$look.d/slow.conf"
    systemctl daemon-reload
    systemctl start "$look"
    frontend="$(of "$look" MainPID)"
    kill -9 "$frontend"
    # Without a look at it, which would wait for the next frontend.
    umount --no-canonicalize /mnt/look
    until_true replaced "$look" "$frontend"
    journalctl -b -u "$look" | grep -q 'the mount of the last start has ended'
    is "descriptors of a mount that ended are given up" "$all" "$(stored)"
    is "it is mounted anew" "1 host" "$(mounted /mnt/look) $(cat /mnt/look/file)"
    # Stopped while a program uses it.
    (cd /mnt/look && exec sleep 1000) &
    systemctl stop "$look"
    is "stopped in use" "inactive 0 0" "$(active "$look") $(mounted /mnt/look) $(of "$look" NFileDescriptorStore)"
    kill $!
    systemctl start "$look"
    is "and started again" "$all" "$(stored)"
    # A file that is not whole, or asks for what cannot be.
    mkdir -p /mnt/bad
    printf 'mountpoint = /mnt/ba' >/etc/agentfs/mounts/bad.conf
    if systemctl start agentfs-mount@bad; then exit 1; fi
    is "a half-written file" "failed 0" "$(active agentfs-mount@bad) $(of agentfs-mount@bad NRestarts)"
    journalctl -b -u agentfs-mount@bad | grep -q 'it may be half written'
    printf 'mountpoint = /mnt/bad\nbase = /var/cache\n' >/etc/agentfs/mounts/bad.conf
    if systemctl start agentfs-mount@bad; then exit 1; fi
    journalctl -b -u agentfs-mount@bad | grep -q 'set AGENTFS_ALLOW_BASE in /etc/agentfs/agentfsd.conf'
    printf 'branch = work\nmountpoint = /mnt/bad\n' >/etc/agentfs/mounts/bad.conf
    if systemctl start agentfs-mount@bad; then exit 1; fi
    is "a branch that is mounted elsewhere" "failed 0 0 0" \
        "$(active agentfs-mount@bad) $(of agentfs-mount@bad NRestarts) $(mounted /mnt/bad) $(of agentfs-mount@bad NFileDescriptorStore)"
    rm /etc/agentfs/mounts/bad.conf
}

# user COMMAND...: as a user without privilege, whose service manager runs.
user() {
    runuser -u tester -- env HOME=/home/tester XDG_RUNTIME_DIR="/run/user/$(id -u tester)" "$@"
}
user_main_pid() { user systemctl --user show --value -p MainPID agentfsd.service; }
user_replaced() {
    local pid
    pid="$(user_main_pid)"
    [ "$pid" != "$1" ] && [ "$pid" != 0 ] && user systemctl --user --quiet is-active agentfsd.service
}

by_user() {
    local pid
    cd /home
    useradd --create-home --shell /bin/bash tester
    loginctl enable-linger tester
    until_true user systemctl --user --quiet is-active default.target
    user bash -c 'mkdir ~/p ~/at && echo host >~/p/file'
    user systemctl --user --quiet enable --now agentfsd.service
    is "a user's manager keeps the daemon" true "$(user agentfs --json status | grep -o '"managed": *true' | head -n 1 | grep -o true)"
    is "of the user's own store" /home/tester/.local/share/agentfs \
        "$(user agentfs --json status | grep -o '"store": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)"
    user agentfs mount --base /home/tester/p --branch u /home/tester/at
    user bash -c 'echo branch >~/at/file'
    for _ in 1 2 3; do
        pid="$(user_main_pid)"
        kill -9 "$pid"
        is "a user's mount goes on" branch "$(user cat /home/tester/at/file)"
        until_true user_replaced "$pid"
    done
    pid="$(user_main_pid)"
    user systemctl --user restart agentfsd.service
    is "and through a restart" branch "$(user cat /home/tester/at/file)"
    user_replaced "$pid"
    user agentfs umount /home/tester/at
    user agentfs commit u
    is "and is committed" branch "$(cat /home/tester/p/file)"
    user agentfs daemon stop
    user systemctl --user stop agentfsd.socket agentfsd.service
    is "the user's daemon is stopped" inactive "$(user systemctl --user is-active agentfsd.service || true)"
    user systemctl --user start agentfsd.socket
    user agentfs status >/dev/null
    is "who connects starts it" active "$(user systemctl --user is-active agentfsd.service)"
}

activation() {
    systemctl stop "$work" "$look" agentfsd
    is "the daemon is stopped" inactive "$(active "$daemon")"
    agentfs status >/dev/null
    is "who connects starts it" active "$(active "$daemon")"
    systemctl start "$work" "$look"
}

first() {
    local before
    is "daemon and mounts are there at boot" "active active active active" \
        "$(active agentfsd.socket) $(active "$daemon") $(active "$work") $(active "$look")"
    is "it shows the base" "$(printf 'file\nsrc')" "$(ls /mnt/work)"
    if touch /mnt/look/new 2>/dev/null; then exit 1; fi
    all="5 5 0"
    is "the manager keeps the mounts" "$all" "$(stored)"
    is "they say what they serve" "branch work on /mnt/work" "$(of "$work" StatusText)"
    is "all are in one slice" "agentfs.slice agentfs.slice" "$(of "$daemon" Slice) $(of "$work" Slice)"
    touch /mnt/work/log
    before="$(find /proc/1/fd -type l | wc -l)"
    kills
    restarts
    waiting
    upgrades
    by_hand
    mounts
    activation
    is "the manager has as many descriptors as before" "$before" "$(find /proc/1/fd -type l | wc -l)"
    by_user
    systemd-analyze security --no-pager agentfsd.service | tail -n 1
    systemd-analyze security --no-pager "$work" | tail -n 1
    # In use at poweroff.
    (cd /mnt/work && exec sleep 1000) &
    echo last >/mnt/work/last
}

second() {
    is "daemon and mounts are there again" "active active active" \
        "$(active "$daemon") $(active "$work") $(active "$look")"
    is "what was written before poweroff is there" last "$(cat /mnt/work/last)"
    is "the daemon was ended in order" 0 "$(journalctl -b -1 -u agentfsd | tail -n 20 | grep -c 'Killing\|status=9' || true)"
}

boots="$(cat /var/boots 2>/dev/null || echo 0)"
boots="$((boots + 1))"
echo "$boots" >/var/boots
sync /var/boots
case "$boots" in
    1) first ;;
    *) second ;;
esac
say "booted-inside: all well"
