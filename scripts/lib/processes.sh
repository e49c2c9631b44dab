# shellcheck shell=bash
# Processes that outlive the script that starts them, known again by pid and moment of start, never by name.
# To be sourced, after engine.sh (process_start, process_is, process_is_gone, wait_until).
#
#   start_detached RECORD LOG READY DIRECTORY COMMAND…   in a session of its own; COMMAND gets --ready-fd 3
#   recorded_pid RECORD                                  prints the pid if that very process still lives
#   wait_until_ready RECORD READY SECONDS                READY then holds what it announced
#   stop_recorded RECORD SECONDS                         asks it to end, then ends it

# The record is written by the process itself before it becomes the program: there is no moment at which it runs
# and nobody would know it again.
start_detached() {
    local record=$1 log=$2 ready=$3 directory=$4
    shift 4
    rm -f "$ready" "$record"
    # shellcheck disable=SC2016 # the inner shell expands them
    setsid sh -c '
        cd "$1" || exit 1
        record=$2
        shift 2
        read -r stat </proc/$$/stat
        # The name, in parentheses, may hold spaces; the 22nd field of the line is the 20th after it.
        echo "$$ $(echo "${stat##*) }" | cut -d " " -f 20)" >"$record.new" && mv "$record.new" "$record" || exit 1
        exec "$@"
    ' start-detached "$directory" "$record" "$@" --ready-fd 3 </dev/null >>"$log" 2>&1 3>"$ready" &
    wait_until 10 test -s "$record"
}

recorded_pid() {
    local pid start
    read -r pid start 2>/dev/null <"$1" || return 1
    process_is "$pid" "$start" && ! process_is_gone "$pid" && echo "$pid"
}

is_ready_or_gone() { [ -s "$2" ] || ! recorded_pid "$1" >/dev/null; }

wait_until_ready() {
    wait_until "$3" is_ready_or_gone "$1" "$2" && [ -s "$2" ] && recorded_pid "$1" >/dev/null
}

stop_recorded() {
    local record=$1 pid
    if pid=$(recorded_pid "$record"); then
        kill "$pid" 2>/dev/null
        if ! wait_until "$2" process_is_gone "$pid"; then
            # The same process still: the pid can't have been given to another one.
            pid=$(recorded_pid "$record") && kill -KILL "$pid" 2>/dev/null
            wait_until 5 process_is_gone "$pid" || return 1
        fi
    fi
    rm -f "$record"
}
