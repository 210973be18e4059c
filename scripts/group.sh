# shellcheck shell=bash
# Runs a command in a process group of its own, so that whoever interrupts us ends the command with all its children,
# and nothing else. Sourced by the scripts beside it.

GROUP=

# run_in_group COMMAND…: waits for it and returns its exit status.
run_in_group() {
    local status=0
    # Job control gives the command its own group and default signal handling; a plain background child would ignore
    # SIGINT. The wait is interruptible, so our traps run at once and not after the command.
    set -m
    "$@" <&0 &
    GROUP=$!
    set +m
    wait "$GROUP" || status=$?
    end_group
    return "$status"
}

# end_group: ends what is left of the group: politely for ten seconds, then by force.
end_group() {
    local tick
    [ -n "$GROUP" ] || return 0
    kill -TERM -- "-$GROUP" 2>/dev/null || { GROUP='' && return 0; }
    # A stopped process acts on no TERM until it is continued.
    kill -CONT -- "-$GROUP" 2>/dev/null || :
    for tick in {1..100}; do
        kill -0 -- "-$GROUP" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$GROUP" 2>/dev/null || :
    GROUP=
}

# on_exit FUNCTION: calls it once at the end, also when interrupted, after the group has ended.
on_exit() {
    # shellcheck disable=SC2064  # the name is meant to be fixed now
    trap "end_group; $1" EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
