# shellcheck shell=bash
# What interrupted tests leave. To be sourced, after terminal.sh and private-engine.sh.
#
#   end_leftovers DIR PROVIDER [DATA_DIR…]   ends the private engines in DIR, the processes whose environment names a
#                           place in DIR, and what the providers with a data directory in DIR (or a DATA_DIR) have on
#                           the engine; PROVIDER is the golem-provider that is asked to

end_leftovers() {
    local directory=$1 provider=$2 data_dir process engine
    shift 2
    for engine in "$directory"/.*/netns.pid; do
        [ ! -e "$engine" ] || stop_private_engine "${engine%/*}"
    done
    for data_dir in "$directory"/.*/data "$@"; do
        [ -e "$data_dir/key" ] || continue
        for process in /proc/[0-9]*; do
            if { tr '\0' '\n' <"$process/environ"; } 2>/dev/null | grep -qxF "GOLEM_PROVIDER_DATA_DIR=$data_dir"; then
                kill -KILL "${process#/proc/}" 2>/dev/null
            fi
        done
        "$provider" purge --yes --data-dir "$data_dir" >/dev/null 2>&1 ||
            warn "Something of the provider in $data_dir may be left on the engine."
    done
    for process in /proc/[0-9]*; do
        if { tr '\0' '\n' <"$process/environ"; } 2>/dev/null | grep -qF "=$directory/"; then
            kill -KILL "${process#/proc/}" 2>/dev/null
        fi
    done
}
