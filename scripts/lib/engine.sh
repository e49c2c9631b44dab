# shellcheck shell=bash
# Docker Engine for the scripts beside this directory, without the docker program. To be sourced,
# after packages.sh.
#
#   engine_answers                 is there an engine that this user may use?
#   ensure_engine STATE LOG        if not: installs and starts one, and writes into STATE that it was us
#   stop_engine_if_ours STATE      stops exactly that one, and undoes what it changed on this machine
#   firewall_snapshot              rules, chains and policies in a form that can be compared
#
# Call them where failure is handled ("ensure_engine … || exit"): they don't rely on "set -e", and bear it,
# "set -u" and "set -o pipefail".
#
# Where an engine has its socket and data; set these before sourcing to move them.
# (An ordinary user's PATH lacks the directories of iptables and dockerd.)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
: "${ENGINE_SOCKET:=}"
: "${ENGINE_DATA_ROOT:=}"
: "${ENGINE_EXEC_ROOT:=}"
: "${ENGINE_PIDFILE:=/var/run/docker.pid}"
# Seconds to wait for an engine to answer, and to end.
: "${ENGINE_START_SECONDS:=60}"
: "${ENGINE_STOP_SECONDS:=90}"

# The socket we would use or make: DOCKER_HOST if it names one.
engine_socket() {
    if [ -n "$ENGINE_SOCKET" ]; then
        echo "$ENGINE_SOCKET"
    else
        case ${DOCKER_HOST:-} in
        unix://?*) echo "${DOCKER_HOST#unix://}" ;;
        *) echo /var/run/docker.sock ;;
        esac
    fi
}

# engine_api PATH [CURL OPTION…]: asks the engine, prints the reply's body; fails on a status of 400 or more.
engine_api() {
    local path=$1 certificates=${DOCKER_CERT_PATH:-$HOME/.docker} address
    shift
    case ${ENGINE_SOCKET:+unix}${DOCKER_HOST:-} in
    tcp://* | http://* | https://*)
        address=${DOCKER_HOST#*://}
        if [ -n "${DOCKER_TLS_VERIFY:-}" ]; then
            curl -sSf --max-time 10 --cacert "$certificates/ca.pem" --cert "$certificates/cert.pem" \
                --key "$certificates/key.pem" "$@" "https://$address$path"
        else
            curl -sSf --max-time 10 "$@" "http://$address$path"
        fi
        ;;
    *) curl -sSf --max-time 10 --unix-socket "$(engine_socket)" "$@" "http://engine$path" ;;
    esac
}

engine_answers() {
    [ "$(engine_api /_ping 2>/dev/null)" = OK ]
}

# The moment a process began, in ticks since boot: with the pid it names one process and no other.
process_start() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in parentheses, may hold spaces; the 22nd field of the line is the 20th after it.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    echo "${20}"
}

# process_is PID START: is it still that process?
process_is() {
    [ -n "$1" ] && [ -n "$2" ] && [ "$(process_start "$1")" = "$2" ]
}

# The shell's own: a minimal system has no program of that name.
# shellcheck disable=SC2016 # the inner shell expands them
kill_as_root() { as_root sh -c 'kill "$@"' kill "$@"; }

process_name() { cat "/proc/$1/comm" 2>/dev/null; }

# wait_until SECONDS COMMAND…
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            return 1
        fi
        sleep 0.2
    done
}

systemd_runs() { [ -d /run/systemd/system ]; }

# ---- what an engine changes on its machine

# The rules of one family, as iptables-save prints them, or nothing where there is no such program.
saved_rules() {
    if command -v "$1-save" >/dev/null; then
        as_root "$1-save" 2>/dev/null
    fi
}

# Counters, comments and empty tables left out.
firewall_snapshot() {
    local family
    for family in iptables ip6tables; do
        saved_rules "$family" | awk -v family="$family" '
            /^\*/ { table = substr($1, 2) }
            /^:/ && $2 != "ACCEPT" { print family, table, $1, $2 }
            /^-A/ { print family, table, $0 }'
    done
    # Those of iptables are above.
    as_root nft list tables 2>/dev/null | grep -v -x -E 'table (ip|ip6) (filter|nat|mangle|raw|security)' |
        sed 's/^/nft /'
}

bridges() { ip -o link show type bridge | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p'; }

cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

forwarding() { cat /proc/sys/net/ipv4/ip_forward 2>/dev/null; }

# Into the directory $1.
record_machine() {
    mkdir -p "$1" || return 1
    saved_rules iptables >"$1/iptables"
    saved_rules ip6tables >"$1/ip6tables"
    bridges >"$1/bridges"
    cgroup_mounts >"$1/cgroups"
    forwarding >"$1/forwarding"
    if systemd_runs && systemctl is-active --quiet containerd.service; then
        echo containerd.service >"$1/containerd"
    fi
}

# Commands for "iptables-restore --noflush" that take away what Docker added since the rules in $1 were saved;
# on standard input the rules as they are. Docker's own are those that jump to or are in a chain of its name,
# and those for its bridges (gvm-… and gvi-… are the ones that golem-provider has it make). Everything else is somebody else's.
docker_rules_to_remove() {
    awk '
        before_it {
            if (/^\*/) table = $1
            if (/^:/) chains[table "\t" $1] = 1
            before[table "\t" $0] = 1
            next
        }
        /^\*/ { table = $1; deletes = ""; flushes = ""; drops = ""; next }
        /^:DOCKER/ {
            if (!((table "\t" $1) in chains)) {
                chain = substr($1, 2)
                flushes = flushes "-F " chain "\n"
                drops = drops "-X " chain "\n"
            }
            next
        }
        /^-A DOCKER/ { next }
        /^-A/ && (/ -j DOCKER/ || / (-i|-o) (docker0|br-[0-9a-f]+|gv[mi]-[0-9a-z]+) /) {
            if (!((table "\t" $0) in before)) deletes = deletes "-D" substr($0, 3) "\n"
            next
        }
        /^COMMIT/ && deletes flushes drops != "" { printf "%s\n%s%s%sCOMMIT\n", table, deletes, flushes, drops }
    ' before_it=1 "$1" before_it= -
}

restore_firewall() {
    local before=$1 family policy changes
    for family in iptables ip6tables; do
        command -v "$family-save" >/dev/null || continue
        changes=$(saved_rules "$family" | docker_rules_to_remove "$before/$family")
        if [ -n "$changes" ]; then
            as_root "$family-restore" --noflush -w <<<"$changes" ||
                echo "Docker's rules could not be removed with $family-restore; $family-save shows them." >&2
        fi
        # Docker sets the policy of FORWARD to DROP, and leaves it so.
        policy=$(awk '/^\*/ { table = $1 } table == "*filter" && $1 == ":FORWARD" { print $2 }' "$before/$family")
        if [ "${policy:-ACCEPT}" = ACCEPT ] &&
            saved_rules "$family" | grep '^:FORWARD DROP' >/dev/null; then
            as_root "$family" -w -P FORWARD ACCEPT
        fi
    done
}

# Docker's bridges stay when it ends. One that still has a member is in use.
remove_new_bridges() {
    local before=$1 bridge
    for bridge in $(bridges); do
        case $bridge in docker0 | br-???????????? | gv[mi]-*) ;; *) continue ;; esac
        if ! grep -qxF "$bridge" "$before/bridges" && [ -z "$(ls "/sys/class/net/$bridge/brif" 2>/dev/null)" ]; then
            as_root ip link delete "$bridge"
        fi
    done
}

restore_machine() {
    local before=$1 mount
    remove_new_bridges "$before"
    restore_firewall "$before"
    if [ "$(cat "$before/forwarding")" = 0 ] && [ "$(forwarding)" = 1 ]; then
        echo 0 | as_root tee /proc/sys/net/ipv4/ip_forward >/dev/null
    fi
    if [ -e "$before/mounted" ]; then
        # The last mounted first.
        for mount in $(tac "$before/mounted"); do
            as_root umount "$mount" 2>/dev/null
        done
    fi
    rm -r "$before"
}

# ---- starting

# Containers need control groups; minimal systems and containers have none mounted. What is mounted is noted in $1.
ensure_cgroups() {
    local controller rest
    if [ -n "$(cgroup_mounts)" ]; then
        return 0
    fi
    echo "Mounting control groups below /sys/fs/cgroup"
    as_root mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
    if grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
        echo /sys/fs/cgroup >"$1"
        return 0
    fi
    as_root umount /sys/fs/cgroup 2>/dev/null
    # An older arrangement: one hierarchy for each controller.
    as_root mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup || return 1
    echo /sys/fs/cgroup >"$1"
    while read -r controller rest; do
        case $controller in '#'*) continue ;; esac
        as_root mkdir -p "/sys/fs/cgroup/$controller"
        if as_root mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null; then
            echo "/sys/fs/cgroup/$controller" >>"$1"
        fi
    done </proc/cgroups
}

# An engine that was killed leaves its pid file, and the next one refuses to start if that pid lives again.
remove_stale_pidfile() {
    local pid
    pid=$(cat "$ENGINE_PIDFILE" 2>/dev/null) || return 0
    if [ -n "$pid" ] && [ "$(process_name "$pid")" = dockerd ]; then
        return 0
    fi
    as_root rm -f "$ENGINE_PIDFILE"
}

# Writes to the log $1, in a session of its own.
start_dockerd() {
    local log=$1
    local -a options=(--host "unix://$(engine_socket)" --pidfile "$ENGINE_PIDFILE")
    [ -z "$ENGINE_DATA_ROOT" ] || options+=(--data-root "$ENGINE_DATA_ROOT")
    [ -z "$ENGINE_EXEC_ROOT" ] || options+=(--exec-root "$ENGINE_EXEC_ROOT")
    # shellcheck disable=SC2016 # the inner shell expands them, as root
    as_root sh -c 'log=$1; shift
        setsid dockerd "$@" </dev/null >>"$log" 2>&1 &' start-dockerd "$log" "${options[@]}"
}

engine_is_up_for_root() {
    [ "$(as_root curl -s --max-time 5 --unix-socket "$(engine_socket)" http://engine/_ping 2>/dev/null)" = OK ]
}

engine_is_up_or_over() {
    local pid
    if engine_is_up_for_root; then
        return 0
    fi
    pid=$(cat "$ENGINE_PIDFILE" 2>/dev/null)
    # A dockerd that fails does so in its first seconds and takes its pid file along.
    [ $((SECONDS - engine_started_at)) -ge 10 ] && ! systemd_runs && [ -z "$pid" ]
}

# Ends ensure_engine's work: a running engine may still be closed to this user.
engine_is_usable() {
    if engine_answers; then
        return 0
    fi
    echo "Docker Engine runs, but $(id -un) may not use $(engine_socket). Either run this as root, or:" >&2
    echo "  sudo usermod -aG docker $(id -un)    and log in again" >&2
    return 1
}

ensure_engine() {
    local state=$1 log=$2 before=$1.before manager=process pid containerd_pid engine_started_at=$SECONDS

    ensure_packages curl || return 1
    if engine_answers; then
        return 0
    fi
    case ${ENGINE_SOCKET:+ours}${DOCKER_HOST:-} in
    '' | ours* | unix://*) ;;
    *)
        echo "DOCKER_HOST is $DOCKER_HOST, and no engine answers there. Start it, or unset DOCKER_HOST." >&2
        return 1
        ;;
    esac
    if [ -S "$(engine_socket)" ] && engine_is_up_for_root; then
        engine_is_usable
        return
    fi

    mkdir -p "$(dirname "$state")" "$(dirname "$log")" && : >>"$log" || return 1
    # The tools that tell what an engine changes, before it changes it.
    ensure_packages iproute2 iptables || return 1
    # A record of an engine that has ended: what it changed hasn't been undone yet, so keep it.
    if [ ! -d "$before" ]; then
        record_machine "$before" || return 1
    fi
    if ! command -v dockerd >/dev/null; then
        ensure_packages docker.io || return 1
    fi

    if systemd_runs && [ -z "$ENGINE_SOCKET$ENGINE_DATA_ROOT" ]; then
        manager=systemd
    fi
    engine_started_at=$SECONDS
    if ! engine_is_up_for_root; then
        echo "Starting Docker Engine"
        if [ "$manager" = systemd ]; then
            as_root systemctl start docker.service >>"$log" 2>&1
        else
            ensure_cgroups "$before/mounted" || return 1
            remove_stale_pidfile
            start_dockerd "$log" || return 1
        fi
    fi
    wait_until "$ENGINE_START_SECONDS" engine_is_up_or_over
    if ! engine_is_up_for_root; then
        echo "Docker Engine did not start within $ENGINE_START_SECONDS seconds. The end of its log:" >&2
        if [ "$manager" = systemd ]; then
            as_root journalctl --no-pager -n 20 -u docker.service >&2
        else
            tail -n 20 "$log" >&2
        fi
        pid=$(cat "$ENGINE_PIDFILE" 2>/dev/null)
        if [ "$manager" = process ] && [ -n "$pid" ] && [ "$(process_name "$pid")" = dockerd ]; then
            kill_as_root "$pid"
            wait_until 15 process_is_gone "$pid"
        fi
        restore_machine "$before"
        return 1
    fi

    pid=$(cat "$ENGINE_PIDFILE" 2>/dev/null)
    containerd_pid=$(child_named "$pid" containerd)
    {
        echo "manager=$manager"
        echo "socket=$(engine_socket)"
        echo "pid=$pid"
        echo "start=$(process_start "$pid")"
        echo "containerd_pid=$containerd_pid"
        echo "containerd_start=$(process_start "$containerd_pid")"
    } >"$state"
    engine_is_usable
}

# ---- stopping

process_is_gone() { [ ! -e "/proc/$1" ] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# child_named PID NAME: the pid of that child, if there is one.
child_named() {
    local child
    [ -n "$1" ] || return 0
    while read -r child; do
        if [ "$(process_name "$child")" = "$2" ]; then
            echo "$child"
            return 0
        fi
    done < <(cat "/proc/$1/task/"*/children 2>/dev/null | tr ' ' '\n')
}

# state_of FILE KEY
state_of() { sed -n "s/^$2=//p" "$1" 2>/dev/null | head -n 1; }

# Stops nothing that somebody uses: while any container runs, the engine stays, and so does the record.
# Returns 0 also when there was nothing to do, 1 if the engine stays.
stop_engine_if_ours() {
    local state=$1 before=$1.before pid start running
    [ -e "$state" ] || return 0
    pid=$(state_of "$state" pid)
    start=$(state_of "$state" start)

    if ! process_is "$pid" "$start"; then
        # It ended by itself, and perhaps another one runs now, which needs its rules and bridges.
        if ! engine_is_up_for_root; then
            restore_machine "$before"
        fi
        rm -rf "$state" "$before"
        return 0
    fi
    running=$(as_root curl -sS --max-time 20 --unix-socket "$(state_of "$state" socket)" \
        http://engine/containers/json 2>/dev/null)
    if [ -n "$running" ] && [ "$running" != "[]" ]; then
        echo "Docker Engine goes on running: there are still containers that others use." >&2
        return 1
    fi

    echo "Stopping Docker Engine, which was started from here"
    if [ "$(state_of "$state" manager)" = systemd ]; then
        as_root systemctl stop docker.socket docker.service
        [ -e "$before/containerd" ] || as_root systemctl stop containerd.service
    else
        kill_as_root "$pid"
    fi
    if ! wait_until "$ENGINE_STOP_SECONDS" process_is_gone "$pid"; then
        echo "Docker Engine (pid $pid) has not ended after $ENGINE_STOP_SECONDS seconds; it is left alone." >&2
        return 1
    fi
    pid=$(state_of "$state" containerd_pid)
    if process_is "$pid" "$(state_of "$state" containerd_start)" && ! wait_until 10 process_is_gone "$pid"; then
        kill_as_root "$pid"
        wait_until 10 process_is_gone "$pid"
    fi
    restore_machine "$before"
    rm -f "$state"
}
