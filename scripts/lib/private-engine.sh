# shellcheck shell=bash
# An engine of its own, for tests that stop, hang or fill one. It lives in network, mount and process namespaces
# of its own: a second engine in the machine's would break the first one's bridge and rules. To be sourced,
# after packages.sh and engine.sh. Needs root, and no internet.
#
#   start_private_engine DIR [KIND]  socket DIR/docker.sock, log DIR/docker.log; DIR/netns.pid names a process in
#                                    its namespaces. Again after the daemon has ended: starts the daemon only.
#                                    KIND btrfs: its data is on a btrfs of its own (needs btrfs-progs, and a kernel
#                                    with btrfs and loop devices); small: its data is on a tmpfs of 1 GiB;
#                                    userns: guests' root is user 100000
#   private_engine_pid DIR           the daemon's pid as this machine sees it: to stop, freeze or kill it
#   stop_private_engine DIR          ends everything in it, containers too, and removes its data
#   copy_image FROM TO IMAGE         from the engine at one socket to the one at another
#
# A program that has to reach its containers' addresses runs in the network namespace only, and then has the
# pid that its parent knows:   nsenter --net --target "$(cat DIR/netns.pid)" PROGRAM…

# The process that holds the namespaces, if it lives.
private_engine_holder() {
    local pid
    pid=$(cat "$1/netns.pid" 2>/dev/null) || return 1
    process_is "$pid" "$(cat "$1/netns.start" 2>/dev/null)" && echo "$pid"
}

private_engine_pid() {
    local holder namespace process
    holder=$(private_engine_holder "$1") || return 1
    namespace=$(as_root readlink "/proc/$holder/ns/pid")
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2>/dev/null)" = dockerd ] && ! process_is_gone "${process#/proc/}" &&
            [ "$(as_root readlink "$process/ns/pid")" = "$namespace" ]; then
            echo "${process#/proc/}"
            return 0
        fi
    done
    return 1
}

private_engine_answers() {
    [ "$(as_root curl -s --max-time 5 --unix-socket "$1/docker.sock" http://engine/_ping 2>/dev/null)" = OK ]
}

# The first process of the new namespaces: it reaps, and when it ends the kernel ends all others in there.
# Its own pid as seen from outside is read before /proc shows the inside.
start_holder() {
    # shellcheck disable=SC2016 # the inner shell expands them
    as_root sh -c 'setsid unshare --net --mount --pid --fork bash -c "$1" holder "$2" \
        </dev/null >>"$2/docker.log" 2>&1 &' start-holder '
            read -r pid _ </proc/self/stat
            mount -t proc proc /proc && ip link set lo up || exit 1
            echo "$pid" >"$1/netns.pid.new" && mv "$1/netns.pid.new" "$1/netns.pid"
            trap "exit 0" TERM
            while :; do sleep 3600 & wait $!; done
        ' "$1"
    wait_until 10 test -s "$1/netns.pid" || return 1
    process_start "$(cat "$1/netns.pid")" >"$1/netns.start"
}

# Whether the kernel has what an engine of that kind needs.
private_engine_is_possible() {
    case $1 in
    btrfs) grep -qw btrfs /proc/filesystems && [ -e /dev/loop-control ] ;;
    small) grep -qw tmpfs /proc/filesystems ;;
    userns) [ -e /proc/self/ns/user ] ;;
    esac
}

# Runs in the engine's mount namespace, before its daemon: what it mounts goes with the namespace, loop devices too.
prepare_private_engine() {
    case $2 in
    btrfs)
        ensure_packages btrfs-progs || return 1
        as_root truncate -s 32G "$1/disk" && as_root /sbin/mkfs.btrfs -q "$1/disk" && as_root mkdir -p "$1/data" &&
            as_root nsenter --mount --target "$3" mount -o loop "$1/disk" "$1/data"
        ;;
    small)
        as_root mkdir -p "$1/data" &&
            as_root nsenter --mount --target "$3" mount -t tmpfs -o size=1g golem-small-disk "$1/data"
        ;;
    userns)
        # The daemon looks the user up by name. The machine's own files stay as they are. The path to its data has
        # to be open to that user.
        mkdir -p "$1/etc" && chmod o+x "$1" && cp /etc/passwd /etc/group "$1/etc/" &&
            sed -i '/^dockremap:/d' "$1/etc/passwd" "$1/etc/group" &&
            echo 'dockremap:x:998:998::/:/usr/sbin/nologin' >>"$1/etc/passwd" &&
            echo 'dockremap:x:998:' >>"$1/etc/group" &&
            echo 'dockremap:100000:65536' | tee "$1/etc/subuid" >"$1/etc/subgid" || return 1
        # shellcheck disable=SC2016 # the inner shell expands them
        as_root nsenter --mount --target "$3" sh -c '
            for file in passwd group subuid subgid; do
                [ -e "/etc/$file" ] || : >"/etc/$file"
                mount --bind "$1/etc/$file" "/etc/$file" || exit 1
            done' prepare "$1"
        ;;
    esac
}

private_engine_options() {
    case $1 in
    btrfs) echo --storage-driver=btrfs ;;
    userns) echo --userns-remap=dockremap ;;
    esac
}

start_private_engine() {
    local dir holder kind
    mkdir -p "$1" && dir=$(cd "$1" && pwd) && : >>"$dir/docker.log" || return 1
    if [ "${#dir}" -gt 90 ]; then
        echo "The path $dir is too long for a socket in it (at most 90 bytes)." >&2
        return 1
    fi
    if ! holder=$(private_engine_holder "$dir"); then
        rm -f "$dir/netns.pid" "$dir/netns.start" "$dir/docker.pid"
        if ! start_holder "$dir"; then
            echo "The namespaces for a private engine could not be made (this needs root):" >&2
            tail -n 5 "$dir/docker.log" >&2
            return 1
        fi
        holder=$(private_engine_holder "$dir") || return 1
        echo "${2:-}" >"$dir/kind"
        prepare_private_engine "$dir" "${2:-}" "$holder" || return 1
    fi
    kind=$(cat "$dir/kind")
    if private_engine_pid "$dir" >/dev/null; then
        return 0
    fi
    # Whatever has the old pid by now, it isn't the engine.
    rm -f "$dir/docker.pid"
    # Left to the holder to reap: nsenter as its parent would stop with it when a test freezes it, for ever.
    # shellcheck disable=SC2016 # the inner shell expands them
    as_root nsenter --net --mount --pid --target "$holder" sh -c 'setsid dockerd --data-root "$1/data" \
        --exec-root "$1/run" --pidfile "$1/docker.pid" --host "unix://$1/docker.sock" $2 \
        </dev/null >>"$1/docker.log" 2>&1 &' start-private-engine "$dir" "$(private_engine_options "$kind")"
    if ! wait_until "$ENGINE_START_SECONDS" private_engine_answers "$dir"; then
        echo "The private engine in $dir did not start. The end of its log:" >&2
        tail -n 20 "$dir/docker.log" >&2
        return 1
    fi
}

# Containers that die with their namespaces leave empty control groups behind.
remove_private_cgroups() {
    local id group
    for id in $(as_root ls "$1/data/containers" 2>/dev/null); do
        for group in /sys/fs/cgroup/docker/"$id" /sys/fs/cgroup/*/docker/"$id"; do
            [ ! -d "$group" ] || as_root find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
        done
    done
}

stop_private_engine() {
    local dir holder
    dir=$(cd "$1" 2>/dev/null && pwd) || return 0
    if holder=$(private_engine_holder "$dir"); then
        kill_as_root -KILL "$holder"
        if ! wait_until 20 process_is_gone "$holder"; then
            echo "The private engine in $dir (pid $holder) does not end." >&2
            return 1
        fi
    fi
    remove_private_cgroups "$dir"
    as_root rm -rf "$dir/data" "$dir/disk" "$dir/etc" "$dir/kind" "$dir/run" "$dir/docker.sock" "$dir/docker.pid" \
        "$dir/netns.pid" "$dir/netns.start"
}

copy_image() {
    as_root curl -sSf --unix-socket "$1" "http://engine/images/$3/get" |
        as_root curl -sSf --unix-socket "$2" -X POST -H 'Content-Type: application/x-tar' -T - \
            -o /dev/null http://engine/images/load
    [ "${PIPESTATUS[*]}" = "0 0" ]
}
