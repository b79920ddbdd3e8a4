# shellcheck shell=bash
# What the scripts share: where things are, what may be done here, parts with a verdict, and cleaning up.
# Sourced, never run.
# shellcheck disable=SC2034 # the scripts that source this use it

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
# Tools of the project first; cargo where rustup leaves it; mkfs and losetup where ordinary users do not look.
PATH=$target/tools/bin:$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export PATH
fsx_version=0.3.2
pjdfstest_version=0.2.2
cargo_deb_version=3.8.0

say() { printf '%s\n' "$@"; }
complain() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    complain "$@"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# The reason why this user cannot mount here; empty when nothing stands in the way.
why_no_mounts() {
    if [ ! -e /dev/fuse ]; then
        say "there is no /dev/fuse"
    elif ! is_root && ! have fusermount3; then
        say "an ordinary user needs fusermount3 (package fuse3)"
    elif ! is_root && [ ! -w /dev/fuse ]; then
        say "/dev/fuse is closed to ordinary users"
    fi
}

# Mount points at and below a directory, the deepest first.
mounts_below() {
    awk -v top="$1" '$5 == top || index($5, top "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

# Unmounts all that is at or below a directory, gently first. Bounded, never fails.
unmount_below() {
    local point
    for point in $(mounts_below "$1"); do
        timeout 60 "${inflight:-inflight}" umount "$point" >/dev/null 2>&1 ||
            timeout 20 umount "$point" >/dev/null 2>&1 ||
            timeout 20 umount -l "$point" >/dev/null 2>&1 ||
            timeout 20 fusermount3 -uz "$point" >/dev/null 2>&1 || true
    done
}

# A directory for images and mounts, on a disk: /tmp may be memory. Sets $scratch and sees to its end.
make_scratch() {
    scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/inflight-${0##*/}.XXXXXX")
    # Tests that change their user must get through.
    chmod 755 "$scratch"
    job='' watchdog=''
    trap leave EXIT
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    trap 'interrupted 129' HUP
}

interrupted() {
    complain "interrupted: unmounting and removing $scratch"
    exit "$1"
}

# Stops what runs, unmounts what is mounted, removes the rest. Runs on every way out.
leave() {
    trap '' INT TERM HUP
    stop_job
    unmount_below "$scratch"
    if [ -n "$(mounts_below "$scratch")" ]; then
        complain "still mounted: $(mounts_below "$scratch" | tr '\n' ' ')"
    else
        rm -rf --one-file-system "$scratch"
    fi
}

stop_job() {
    local pid
    for pid in $watchdog $job; do
        # Jobs lead a process group each, so everything that they started goes with them.
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
    if [ -n "$job" ]; then
        for _ in $(seq 50); do
            kill -0 -- "-$job" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$job" 2>/dev/null || true
    fi
    job='' watchdog=''
}

# bounded SECONDS LOG FUNCTION [ARGUMENT...]: runs it with its output in LOG (- leaves it where it is), in a
# process group of its own, so that a signal to the script is answered at once and nothing outlives it. Sets
# $code: 124 when the time ends first. It returns 0, for a function that is called with || or in an if does not
# stop at errors, nor does anything below it.
bounded() {
    local limit=$1 log=$2 begun=$SECONDS
    shift 2
    code=0
    set -m
    # The redirection is the job's alone: what the script has to say when it is interrupted is not lost in a log.
    if [ "$log" = - ]; then
        ("$@") </dev/null &
    else
        ("$@") </dev/null >"$log" 2>&1 &
    fi
    job=$!
    (
        sleep "$limit"
        kill -TERM -- "-$job"
        sleep 10
        kill -KILL -- "-$job"
    ) >/dev/null 2>&1 </dev/null &
    watchdog=$!
    set +m
    wait "$job" || code=$?
    if [ "$code" -gt 128 ] && [ $((SECONDS - begun)) -ge "$limit" ]; then
        code=124
    fi
    kill -TERM -- "-$watchdog" "-$job" 2>/dev/null || true
    wait "$watchdog" 2>/dev/null || true
    job='' watchdog=''
}

# Both are counted by run_part and printed by summary.
passed=0 failed=0 skipped=0

# run_part SECONDS NAME FUNCTION [ARGUMENT...]: one line with verdict, seconds and name. 77 means skipped, the
# reason being the last line of output. A failing part shows its log, and the log is kept in $logs.
logs=$target/logs
run_part() {
    local limit=$1 name=$2 begun=$SECONDS log
    shift 2
    mkdir -p "$logs"
    log=$logs/${name//[^a-zA-Z0-9_.-]/_}.log
    [ ! -t 1 ] || printf '   ...      %s\r' "$name"
    bounded "$limit" "$log" "$@"
    [ -z "${scratch:-}" ] || unmount_below "$scratch"
    local seconds=$((SECONDS - begun))
    case $code in
    0)
        passed=$((passed + 1))
        printf 'ok      %4d s  %s%s\n' "$seconds" "$name" "$(sed -n 's/^note: /; /p' "$log")"
        ;;
    77)
        skipped=$((skipped + 1))
        printf 'skipped %4d s  %s: %s\n' "$seconds" "$name" "$(tail -n 1 "$log")"
        ;;
    *)
        failed=$((failed + 1))
        printf 'FAILED  %4d s  %s: exit code %d%s\n' "$seconds" "$name" "$code" \
            "$([ "$code" != 124 ] || printf ', took longer than %d s' "$limit")"
        sed 's/^/    /' "$log"
        say "    log: $log"
        ;;
    esac
}

skip() {
    say "$*"
    exit 77
}

# Fails when any part failed, and when nothing was run.
summary() {
    say "$passed passed, $failed failed$([ "$skipped" = 0 ] || printf ', %d skipped' "$skipped")"
    [ "$failed" = 0 ] && [ "$passed" != 0 ]
}
