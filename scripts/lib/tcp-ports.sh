# shellcheck shell=bash
# Which TCP ports of this machine are free. To be sourced.
#
#   ports_in_use            one per line: those of listeners and of connections
#   free_port WISH          WISH if it is free, else another one
#   free_ports WISH COUNT   the first of COUNT free ports in a row, WISH if they are free there

ports_in_use() {
    local file local_address rest
    for file in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$file" ] || continue
        while read -r _ local_address rest; do
            case $local_address in
            *:????) echo $((16#${local_address##*:})) ;;
            esac
        done <"$file"
    done
    # Those that somebody has set aside, such as a provider's forwarder that is just starting again.
    tr ',' '\n' </proc/sys/net/ipv4/ip_local_reserved_ports 2>/dev/null | while IFS=- read -r first last; do
        [ -z "$first" ] || seq "$first" "${last:-$first}"
    done
}

free_ports() {
    local wish=$1 count=$2 first port
    local -A used=()
    while read -r port; do
        used[$port]=1
    done < <(ports_in_use)
    # Above the wish first, then from a place that is nobody's default.
    for first in "$wish" $(seq $((wish + 100)) "$count" $((wish + 1500))) $(seq 20000 "$count" 30000); do
        for ((port = first; port < first + count; port++)); do
            if [ -n "${used[$port]:-}" ] || [ "$port" -gt 65535 ]; then
                continue 2
            fi
        done
        echo "$first"
        return 0
    done
    return 1
}

free_port() { free_ports "$1" 1; }
