# shellcheck shell=bash
# Packages of the distribution, for the scripts beside this directory. To be sourced.
#
#   as_root COMMAND…        runs it as root: directly, or with sudo
#   ensure_packages PKG…    installs what is missing; "a|b" is satisfied by either, and a is installed
#   packages_of PROGRAM:PKG…    the packages of those programs that are not here
#   machine_programs        the programs that the backend qemu needs, as packages_of wants them
#
# Nothing that is installed is changed: a program that is there is taken as it is, whatever release it is from.

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "This needs root, and there is no sudo: run it as root: $*" >&2
        return 1
    fi
}

package_is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Whether something can be done as root from here without anybody being asked for a password that he may not have.
can_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }
}

# Ordinary users have no sbin in their path, where half of these are.
has_program() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null; }

packages_of() {
    local pair
    for pair in "$@"; do
        has_program "${pair%%:*}" || echo "${pair#*:}"
    done | sort -u
}

machine_programs() {
    printf '%s\n' qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils slirp4netns:slirp4netns nft:nftables \
        mmdebstrap:mmdebstrap gpgv:gpgv mke2fs:e2fsprogs debugfs:e2fsprogs ip:iproute2 prlimit:util-linux \
        unshare:util-linux nsenter:util-linux setpriv:util-linux
    # As another user than root, images are built in a user namespace with subordinate ids.
    [ "$(id -u)" -eq 0 ] || printf '%s\n' newuidmap:uidmap
}

# Downloading and installing, as quiet as apt can be; what it says goes to the file $1.
apt_install() {
    local log=$1
    shift
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
        apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install --no-install-recommends --no-upgrade --no-remove "$@" </dev/null >>"$log" 2>&1
}

apt_update() {
    as_root apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update </dev/null >>"$1" 2>&1
}

ensure_packages() {
    local wanted alternative found log attempt
    local -a missing=()

    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        echo "There is no apt-get here: this script installs packages on Debian and Ubuntu only." >&2
        echo "Install what these Debian packages hold, then run it again: $*" >&2
        return 1
    fi
    for wanted in "$@"; do
        found=
        for alternative in ${wanted//|/ }; do
            if package_is_installed "$alternative"; then
                found=yes
            fi
        done
        if [ -z "$found" ]; then
            missing+=("${wanted%%|*}")
        fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        return 0
    fi

    if ! can_be_root; then
        echo "Packages are missing, and installing them takes root. Have somebody run this, and then try again:" >&2
        echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
        return 1
    fi
    log=$(mktemp) || return 1
    echo "Installing from the distribution's packages: ${missing[*]}"
    # A fresh machine has no lists at all, an old one has lists whose files are gone from the mirror.
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
        apt_update "$log" || true
    fi
    for attempt in 1 2 3; do
        if apt_install "$log" "${missing[@]}"; then
            rm -f "$log"
            return 0
        fi
        if [ "$attempt" -lt 3 ]; then
            sleep $((attempt * 3 - 3))
            apt_update "$log" || true
        fi
    done
    echo "apt-get could not install: ${missing[*]}. The end of what it said:" >&2
    tail -n 20 "$log" >&2
    rm -f "$log"
    return 1
}
