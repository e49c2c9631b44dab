# shellcheck shell=bash
# A market on this machine's loopback: discovery, port checker and provider, with their state in one directory.
# To be sourced, after terminal.sh, packages.sh, engine.sh, processes.sh and tcp-ports.sh; set MARKET (the
# directory), BIN (where the programs are) and RENTER_ID (golem's id) first.
#
#   market_settle           chooses ports (once), writes the services' config files
#   market_start SERVICE    unless it runs: starts it and waits until it serves
#   market_runs SERVICE     does it?
#   market_is_contained     whether guests are kept from this host and its network
#   market_stop             ends all three, and what the provider has left behind
#   ports_of KEY            a chosen port
#
# Each service gets its settings from a config file of its own, and nothing from this user's: neither GOLEM_…
# variables nor config files, which may be those of a real provider.

# How many VMs' ports there are.
VM_PORTS=20

: "${SERVICE_START_SECONDS:=60}"

# Who may rent here in any case: RENTER_ID, or whoever was written down before.
renter_id() {
    local written=$MARKET/config/golem/provider.toml
    echo "${RENTER_ID:-$(sed -n 's/^trusted_requestors = "\(.*\)"/\1/p' "$written" 2>/dev/null)}"
}

# Whether the running provider keeps its guests from this host and its network.
market_is_contained() {
    in_market "$BIN/golem-provider" status --json --data-dir "$MARKET/provider" 2>/dev/null |
        tr -d ' \n' | grep '"containment":{"state":"contained"' >/dev/null
}

# What makes the machines: auto, docker, qemu or multipass.
market_backend() { cat "$MARKET/backend" 2>/dev/null || echo docker; }

ports_of() { state_of "$MARKET/ports" "$1"; }

discovery_url() { echo "http://127.0.0.1:$(ports_of discovery)"; }
checker_url() { echo "http://127.0.0.1:$(ports_of port-checker)"; }

market_settle() {
    mkdir -p "$MARKET/config/golem" && chmod 700 "$MARKET" || return 1
    set_market_environment
    if [ ! -s "$MARKET/ports" ]; then
        choose_ports || return 1
    fi
    write_config
}

# An earlier choice is kept: VMs and the user's config know it.
choose_ports() {
    local discovery checker provider first
    discovery=$(free_port 9001)
    checker=$(free_port 9000)
    provider=$(free_port 7466)
    first=$(free_ports 50800 "$VM_PORTS")
    if [ -z "$discovery" ] || [ -z "$checker" ] || [ -z "$provider" ] || [ -z "$first" ]; then
        echo "There are no $VM_PORTS free TCP ports in a row on this machine." >&2
        return 1
    fi
    {
        echo "discovery=$discovery"
        echo "port-checker=$checker"
        echo "provider=$provider"
        echo "first=$first"
    } >"$MARKET/ports.new"
    mv "$MARKET/ports.new" "$MARKET/ports"
}

# Another port for a service whose port was taken by another program while it was down.
choose_port_again() {
    local port
    port=$(free_port "$(($(ports_of "$1") + 1))") || return 1
    sed -i "s/^$1=.*/$1=$port/" "$MARKET/ports"
    write_config
}

# A TOML string.
toml() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

write_config() {
    local first renter config=$MARKET/config/golem
    first=$(ports_of first)
    renter=$(renter_id)
    cat >"$config/discovery.toml" <<-END
		host = "127.0.0.1"
		port = $(ports_of discovery)
		database_dir = $(toml "$MARKET/discovery")
	END
    cat >"$config/port-checker.toml" <<-END
		host = "127.0.0.1"
		port = $(ports_of port-checker)
		data_dir = $(toml "$MARKET/port-checker")
		# The market is on loopback.
		allow_private_addresses = true
	END
    cat >"$config/provider.toml" <<-END
		host = "127.0.0.1"
		port = $(ports_of provider)
		data_dir = $(toml "$MARKET/provider")
		name = "${MARKET##*/}"
		country = "ZZ"
		public_ip = "127.0.0.1"
		discovery_url = "$(discovery_url)"
		port_checkers = "$(checker_url)"
		port_range_start = $first
		# The port behind the last one.
		port_range_end = $((first + VM_PORTS))
		backend = "$(market_backend)"
		# vCPUs are shared out four times over, so that a small machine can rent out several VMs.
		overcommit_cpu = 4
		# Where guests can't be kept from this host and its network, only this user's golem can rent one.
		trusted_requestors = "$renter"
	END
}

# in_market COMMAND…: runs a program with the market's config files, and without this user's variables for any of
# the services.
in_market() { "${market_environment[@]}" "$@"; }

set_market_environment() {
    local name
    market_environment=(env)
    for name in $(compgen -e); do
        case $name in
        GOLEM_PROVIDER_* | GOLEM_DISCOVERY_* | DISCOVERY_* | PORT_CHECKER_* | RUST_LOG)
            market_environment+=(-u "$name")
            ;;
        esac
    done
    market_environment+=("XDG_CONFIG_HOME=$MARKET/config")
}

program_of() {
    case $1 in
    discovery) echo "$BIN/golem-discovery" ;;
    provider) echo "$BIN/golem-provider" ;;
    *) echo "$BIN/$1" ;;
    esac
}

market_runs() { recorded_pid "$MARKET/$1.process" >/dev/null; }

# Ends with the end of the service's log if it does not come up.
market_start() {
    local service=$1 record=$MARKET/$1.process ready=$MARKET/$1.ready
    if market_runs "$service" && ! is_built_anew "$record" &&
        wait_until_ready "$record" "$ready" "$SERVICE_START_SECONDS"; then
        return 0
    fi
    stop_recorded "$record" 10
    set_market_environment
    launch "$service" && return 0
    # Another program may have taken the port while the service was down.
    if ports_in_use | grep -x "$(ports_of "$service")" >/dev/null; then
        choose_port_again "$service" && launch "$service" && return 0
    fi
    show_log "$MARKET/$service.log"
    return 1
}

# Whether the program that runs is no longer the one on the disk.
is_built_anew() {
    case $(readlink "/proc/$(recorded_pid "$1")/exe") in
    *' (deleted)') return 0 ;;
    *) return 1 ;;
    esac
}

launch() {
    local record=$MARKET/$1.process ready=$MARKET/$1.ready
    start_detached "$record" "$MARKET/$1.log" "$ready" "$MARKET" \
        "${market_environment[@]}" "$(program_of "$1")" start &&
        wait_until_ready "$record" "$ready" "$SERVICE_START_SECONDS"
}

# The id that a running service has announced.
id_of() { sed -n 's/.*"id":"\([^"]*\)".*/\1/p' "$MARKET/$1.ready" 2>/dev/null; }

# The forwarder is started by the provider and outlives it; it is known by the directory it was started for.
forwarder_pids() {
    local process
    local -a words
    for process in /proc/[0-9]*; do
        words=()
        mapfile -d '' words 2>/dev/null <"$process/cmdline"
        case "${words[*]:0:3}" in
        */golem-forwarder\ --data-dir\ "$MARKET/provider")
            process_is_gone "${process#/proc/}" || echo "${process#/proc/}"
            ;;
        esac
    done
}

market_stop() {
    local service pid
    for service in provider port-checker discovery; do
        stop_recorded "$MARKET/$service.process" 20 || {
            echo "$service does not end." >&2
            return 1
        }
    done
    for pid in $(forwarder_pids); do
        kill "$pid" 2>/dev/null
        wait_until 5 process_is_gone "$pid" || kill -KILL "$pid" 2>/dev/null
    done
}
