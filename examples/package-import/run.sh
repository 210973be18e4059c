#!/usr/bin/env bash
# Three engines import the changelogs of all installed packages; one is killed, one is frozen; nothing may be lost.
#
#   run.sh [sqlite|postgres|mysql]  default: sqlite; the others start a throwaway server (scripts/databases)
#
# REKINDLE_BIN_DIR   where the programs are (default: build them, release profile)
# IMPORT_PAUSE       seconds by which each task is prolonged (default: so that the show lasts half a minute)
# IMPORT_LIMIT       take only the first so many packages
# KEEP=1             keep the work directory
# Exit: 0 if all held, 1 if not, 2 wrong usage.

set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
NAMES=(a b c)
SLOTS=2
# The fast profile's T, and what a sweep and a busy machine may add.
FREEZE_S=7
STARTED=$EPOCHREALTIME
WORK=
URL=
SETTINGS=()
BIN=
TOTAL=0
FAILURES=0
declare -A GUARD=()

main() {
    local backend=${1:-sqlite}
    [ $# -le 1 ] || usage
    case $backend in
        sqlite) ;;
        postgres | mysql)
            if [ -z "${PACKAGE_IMPORT_INSIDE:-}" ]; then
                local server=${backend/mysql/mariadb}
                REKINDLE_DATABASES=$server PACKAGE_IMPORT_INSIDE=1 exec "$ROOT/scripts/databases" run -- \
                    "${BASH_SOURCE[0]}" "$backend"
            fi
            ;;
        *) usage ;;
    esac
    programs
    prepare "$backend"
    serial_run
    cluster_run
    verdict
}

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

programs() {
    BIN=${REKINDLE_BIN_DIR:-}
    if [ -z "$BIN" ]; then
        (cd "$ROOT" && cargo build --release --locked --bins)
        BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release
    fi
    BIN=$(cd "$BIN" && pwd)
    [ -x "$BIN/rekindle" ] && [ -x "$BIN/rekindle-engine" ] || fail "no programs in $BIN"
}

prepare() {
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/package-import.XXXXXX")
    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    URL=sqlite://$WORK/rekindle.db
    case $1 in
        postgres) URL=$REKINDLE_TEST_POSTGRES ;;
        mysql) URL=$REKINDLE_TEST_MARIADB ;;
    esac
    STARTED=$EPOCHREALTIME
    SETTINGS=(env REKINDLE_CONFIG="$WORK/rekindle.toml" REKINDLE_DATABASE__URL="$URL")
    packages >"$WORK/packages"
    TOTAL=$(wc -l <"$WORK/packages")
    local pause=${IMPORT_PAUSE:-}
    if [ -z "$pause" ]; then
        pause=$(awk -v tasks="$TOTAL" -v slots=$((SLOTS * ${#NAMES[@]})) \
            'BEGIN { p = 30 * slots / tasks; if (p < 0.2) p = 0.2; if (p > 5) p = 5; printf "%.2f", p }')
    fi
    sed -e "s|@IMPORT@|$HERE/import-changelog|" -e "s|@OUT@|$WORK/out|" -e "s|@PAUSE@|$pause|" \
        "$HERE/rekindle.toml.in" >"$WORK/rekindle.toml"
    event "$TOTAL packages on this machine; each task is prolonged by $pause s; database: $1"
}

# Lines "name version", the name with its architecture where it needs one.
packages() {
    # shellcheck disable=SC2016  # dpkg-query's own variables
    dpkg-query -W -f '${db:Status-Status} ${binary:Package} ${Version}\n' |
        awk -v limit="${IMPORT_LIMIT:-0}" '$1 == "installed" && (!limit || n++ < limit) { print $2, $3 }'
}

# --- the same command, once after the other ---------------------------------------------------------------------------

serial_run() {
    local name version started=$EPOCHREALTIME
    while read -r name version; do
        printf '{"package": "%s", "version": "%s"}' "$name" "$version" |
            TMPDIR=$WORK IMPORT_PAUSE='' "$HERE/import-changelog" "$WORK/serial" ||
            fail "the serial run failed at $name"
    done <"$WORK/packages"
    event "a plain serial run took $(since "$started") s (its tasks were not prolonged)"
}

# --- the cluster ------------------------------------------------------------------------------------------------------

cluster_run() {
    local name started
    cli db migrate >>"$WORK/cli.log"
    awk '{
        printf "{\"payload\": {\"package\": \"%s\", \"version\": \"%s\"}, ", $1, $2
        printf "\"resources\": [\"package:%s\"]}\n", $1
    }' "$WORK/packages" | cli task add import --many - >>"$WORK/cli.log"
    event "$TOTAL tasks added"
    started=$EPOCHREALTIME
    for name in "${NAMES[@]}"; do engine_start "$name"; done
    event "engines ${NAMES[*]} started"
    await_done $((TOTAL / 10))
    kill_engine b
    await_done $((TOTAL / 3))
    freeze c
    await_done "$TOTAL"
    event "all tasks are done after $(since "$started") s"
    stop_engines
}

kill_engine() {
    local engine
    await_task "$1"
    engine=$(engine_of "$1")
    kill -KILL "$engine"
    KILLED_AT=$EPOCHREALTIME
    event "kill -9 of engine $1 (process $engine) while it runs tasks; its guard lives"
}

freeze() {
    local engine guard=${GUARD[$1]}
    await_task "$1"
    engine=$(engine_of "$1")
    kill -STOP "$guard" "$engine"
    FROZEN_AT=$EPOCHREALTIME
    event "engine $1 and its guard are frozen while it runs tasks"
    sleep "$FREEZE_S"
    # The guard, once it goes on, may be faster with its kill than we are with the second signal.
    kill -CONT "$engine" "$guard" 2>/dev/null || :
    event "engine $1 and its guard go on after $FREEZE_S s, longer than T"
}

engine_start() {
    mkdir -p "$WORK/state/$1"
    # Not through a function: a shell between us and the guard would have the id that we remember.
    "${SETTINGS[@]}" REKINDLE_ENGINE__NAME="$1" REKINDLE_ENGINE__STATE_DIR="$WORK/state/$1" \
        "$BIN/rekindle-engine" </dev/null >>"$WORK/$1.log" 2>&1 &
    GUARD[$1]=$!
}

# What a service manager does: an engine whose guard has ended is started again.
keep_alive() {
    local name status
    for name in "${NAMES[@]}"; do
        if running "${GUARD[$name]}"; then continue; fi
        status=0
        wait "${GUARD[$name]}" || status=$?
        engine_start "$name"
        event "the guard of $name had ended with $status: $name is started again"
    done
}

stop_engines() {
    local name tick
    for name in "${NAMES[@]}"; do kill -TERM "${GUARD[$name]}" 2>/dev/null || :; done
    for tick in {1..150}; do
        any_running || break
        sleep 0.1
    done
    event "engines stopped"
}

any_running() {
    local name
    for name in "${NAMES[@]}"; do
        if running "${GUARD[$name]}"; then return 0; fi
    done
    return 1
}

# await_done COUNT: until so many tasks are done; nothing may fail on the way.
await_done() {
    local done=0 limit=$((SECONDS + 600)) next=$((SECONDS + 5))
    while :; do
        keep_alive
        done=$(ids done | wc -l)
        [ "$done" -lt "$1" ] || return 0
        [ $SECONDS -lt $limit ] || fail "only $done of $1 tasks are done after ten minutes"
        if [ $SECONDS -ge $next ]; then
            next=$((SECONDS + 5))
            event "$done done"
            [ -z "$(ids failed; ids quarantined)" ] || fail "a task has failed"
        fi
        sleep 0.3
    done
}

# Looks at processes and not at the database: the kill must hit while the task runs.
await_task() {
    local try
    for try in {1..1500}; do
        [ -z "$(tasks_of "$1")" ] || return 0
        keep_alive
        sleep 0.02
    done
    fail "engine $1 ran no task in $((try / 50)) s"
}

# --- all that depends on the CLI's output -----------------------------------------------------------------------------

cli() {
    "${SETTINGS[@]}" "$BIN/rekindle" --no-input "$@"
}

# ids STATE: one number per line.
ids() {
    cli task list --kind import --state "$1" --limit $((TOTAL + 1)) --output name | grep -oE '[0-9]+$' || :
}

# Numbers of the tasks that took more than one attempt.
repeated() {
    cli task list --kind import --state done --limit $((TOTAL + 1)) --output jsonl | perl "$HERE/flatten.pl" |
        awk -F'\t' '
            $2 == "task" { id[$1] = $3 }
            $2 == "attempt" && $3 > 1 { many[$1] }
            END { for (n in many) print id[n] }' | sort -n
}

# takeovers: lines "task engine started lost_at next_started", times in seconds, one for each attempt that was lost.
takeovers() {
    local id engine started ended next
    for id in $(repeated); do
        cli task show "$id" --output json | perl "$HERE/flatten.pl" | awk -F'\t' '
            # The attempts are a list of the task, wherever in the document the task is.
            match($2, /attempts\.[0-9]+\./) {
                split(substr($2, RSTART, RLENGTH), path, "."); i = path[2] + 0; key = substr($2, RSTART + RLENGTH)
                if (key == "engine") engine[i] = $3
                if (key == "result") result[i] = $3
                if (key == "started_at") start[i] = $3
                if (key == "ended_at") stop[i] = $3
                if (i > last) last = i
            }
            END {
                for (i = 0; i < last; i++) if (result[i] == "lost") print engine[i], start[i], stop[i], start[i + 1]
            }' |
            while read -r engine started ended next; do
                echo "$id $engine $(seconds "$started") $(seconds "$ended") $(seconds "$next")"
            done
    done
}

seconds() {
    date -d "$1" +%s.%6N
}

# --- the verdict ------------------------------------------------------------------------------------------------------

verdict() {
    local from_b from_c
    takeovers >"$WORK/takeovers"
    printf '\n'
    check "all $TOTAL packages are done" [ "$(ids done | wc -l)" -eq "$TOTAL" ]
    check "the output is the serial run's, byte for byte ($(manifest "$WORK/out"))" diff -r "$WORK/serial" "$WORK/out"
    from_b=$(from b "$KILLED_AT" | wc -l)
    from_c=$(from c "$FROZEN_AT" | wc -l)
    check "tasks of the killed engine were taken over ($from_b)" [ "$from_b" -ge 1 ]
    check "tasks of the frozen engine were taken over ($from_c)" [ "$from_c" -ge 1 ]
    leftovers >"$WORK/leftovers"
    check "no process is left" [ ! -s "$WORK/leftovers" ]
    printf '\n%s attempts were lost and taken over\n' "$(wc -l <"$WORK/takeovers")"
    awk '{ print $5 - $4 }' "$WORK/takeovers" | spread "  from the end of the lost attempt to the next one"
    from b "$KILLED_AT" | spread "  from kill -9 to the next attempt (proof of death)"
    from c "$FROZEN_AT" | spread "  from the freeze to the next attempt (no proof: T)"
    printf '  %s packages, %s releases, %s without a changelog\n' "$TOTAL" \
        "$(cat "$WORK"/out/*/*.jsonl | wc -l)" "$(cat "$WORK"/out/*/*.jsonl | grep -c '"changelog":"none"}$' || :)"
    [ "$FAILURES" -eq 0 ] || fail "$FAILURES of the promises did not hold"
    echo "all held"
}

check() {
    local what=$1
    shift
    if "$@" >"$WORK/check.log" 2>&1; then
        printf 'ok      %s\n' "$what"
    else
        printf 'FAILED  %s\n' "$what"
        head -n 5 "$WORK/check.log"
        FAILURES=$((FAILURES + 1))
    fi
}

# from ENGINE INSTANT: seconds from then to the next attempt, for each attempt of the engine that ran at that time.
from() {
    awk -v engine="$1" -v at="$2" '$2 == engine && $3 <= at && $5 >= at { print $5 - at }' "$WORK/takeovers"
}

spread() {
    sort -n | awk -v what="$1" '
        { v[NR] = $1 }
        END { if (NR) printf "%s: median %.2f s, longest %.2f s\n", what, v[int((NR + 1) / 2)], v[NR] }'
}

manifest() {
    (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16
}

# --- processes --------------------------------------------------------------------------------------------------------

# The engine proper is its guard's child and the same program.
engine_of() {
    local pid
    for pid in $(descendants "${GUARD[$1]}"); do
        if [ "/proc/$pid/exe" -ef "/proc/${GUARD[$1]}/exe" ]; then
            echo "$pid"
            return
        fi
    done
}

tasks_of() {
    local pid engine
    engine=$(engine_of "$1")
    [ -n "$engine" ] || return 0
    for pid in $(descendants "$engine"); do
        grep -qsaF import-changelog "/proc/$pid/cmdline" && echo "$pid"
    done
    return 0
}

# descendants PID: children first, then theirs.
descendants() {
    { cat /proc/[0-9]*/stat 2>/dev/null || :; } | awk -v root="$1" '
        { pid = $1; sub(/.*\) /, ""); below[$2] = below[$2] " " pid }
        END {
            queue[n = 1] = root
            for (i = 1; i <= n; i++) {
                count = split(below[queue[i]], pids, " ")
                for (j = 1; j <= count; j++) { queue[++n] = pids[j]; print pids[j] }
            }
        }'
}

# running PID: a zombie is none.
running() {
    [ -e "/proc/$1" ] && ! grep -qs '^State:[[:space:]]*[ZX]' "/proc/$1/status"
}

# Everything that was started here, and what that started, has the work directory in its environment or arguments.
leftovers() {
    env -i PATH="$PATH" grep -lsaF -f - /proc/[0-9]*/environ /proc/[0-9]*/cmdline <<<"$WORK" |
        cut -d/ -f3 | sort -u || :
}

cleanup() {
    local status=$? pid log tick
    if [ "$status" -ne 0 ]; then
        for log in "$WORK"/*.log; do
            if [ -s "$log" ]; then printf '\n--- the end of %s\n' "${log##*/}" && tail -n 15 "$log"; fi
        done >&2
    fi
    for pid in $(leftovers); do kill -CONT "$pid" 2>/dev/null && kill -TERM "$pid" 2>/dev/null || :; done
    for tick in {1..80}; do
        [ -n "$(leftovers)" ] || break
        sleep 0.1
    done
    for pid in $(leftovers); do kill -KILL "$pid" 2>/dev/null || :; done
    if [ -n "${KEEP:-}" ]; then echo "kept: $WORK"; else rm -rf -- "$WORK"; fi
    exit "$status"
}

# --- words ------------------------------------------------------------------------------------------------------------

event() {
    printf '%7.1f s  %s\n' "$(since "$STARTED")" "$1"
}

since() {
    awk -v from="${1/,/.}" -v to="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f", to - from }'
}

fail() {
    printf 'package-import: %s\n' "$1" >&2
    exit 1
}

LC_ALL=C
export LC_ALL
main "$@"
