# shellcheck shell=bash
# The renter's side of a market on this machine: golem as this user has it set up. To be sourced, after market.sh;
# BIN and MARKET are set.
#
#   golem_here ARGUMENTS…   golem, asking this market's discovery server whatever this user's configuration says
#   machines_here           the names of this user's machines at this market's provider
#   settle_cli              writes the discovery server into golem's configuration unless one is there; fails if
#                           golem will ask another one
#   unsettle_cli            takes that back
#   note_renter, forget_renter    the same for golem's directory, with the user's key and list of machines

golem_here() { "$BIN/golem" --discovery-url "$(discovery_url)" "$@" 9>&-; }

# The values of a string member in compact JSON, one per line.
json_strings() { grep -o "\"$1\":\"[^\"\\]*\"" | cut -d '"' -f 4; }

machines_here() {
    local id
    id=$(id_of provider)
    [ -n "$id" ] || return 0
    golem_here --quiet vm list --json 2>/dev/null | sed 's/{"name":/\n&/g' | grep "\"provider_id\":\"$id\"" |
        json_strings name
}

config_value() { "$BIN/golem" config get discovery-url 2>/dev/null; }

# What the file alone says.
config_file_value() { env -u GOLEM_REQUESTOR_DISCOVERY_URL "$BIN/golem" config get discovery-url 2>/dev/null; }

# What is written is recorded first, so that it is known even after an interruption.
settle_cli() {
    local url now
    url=$(discovery_url)
    now=$(config_value)
    if [ -n "$now" ] && [ "$now" != "$(state_of "$MARKET/cli" wrote)" ]; then
        [ "$now" = "$url" ]
        return
    fi
    [ -e "$MARKET/cli" ] || record_cli || return 1
    sed -i '/^wrote=/d' "$MARKET/cli" && echo "wrote=$url" >>"$MARKET/cli"
    [ "$now" = "$url" ] || "$BIN/golem" --quiet config set discovery-url "$url"
}

# What is not there before, innermost first.
record_cli() {
    local file directory
    file=$("$BIN/golem" config path) || return 1
    {
        echo "file=$file"
        [ -e "$file" ] || echo "made=$file"
        directory=${file%/*}
        while [ ! -d "$directory" ]; do
            echo "made=$directory"
            directory=${directory%/*}
        done
    } >"$MARKET/cli.new"
    mv "$MARKET/cli.new" "$MARKET/cli"
}

unsettle_cli() {
    local made
    [ -e "$MARKET/cli" ] || return 0
    if [ "$(config_file_value)" = "$(state_of "$MARKET/cli" wrote)" ]; then
        env -u GOLEM_REQUESTOR_DISCOVERY_URL "$BIN/golem" --quiet config unset discovery-url || return 1
    fi
    while read -r made; do
        if [ -f "$made" ] && [ ! -s "$made" ]; then
            rm -f "$made"
        elif [ -d "$made" ]; then
            rmdir "$made" 2>/dev/null
        fi
    done < <(sed -n 's/^made=//p' "$MARKET/cli")
    rm -f "$MARKET/cli"
}

renter_directory() {
    case ${GOLEM_REQUESTOR_BASE_DIR:-} in
    '') echo "$(data_home)/golem/requestor" ;;
    /*) echo "$GOLEM_REQUESTOR_BASE_DIR" ;;
    *) echo "$PWD/$GOLEM_REQUESTOR_BASE_DIR" ;;
    esac
}

# The platform's data directory.
data_home() {
    case ${XDG_DATA_HOME:-} in
    /*) echo "$XDG_DATA_HOME" ;;
    *) echo "$HOME/.local/share" ;;
    esac
}

# Before golem's first use.
note_renter() {
    if [ ! -e "$(renter_directory)" ]; then
        renter_directory >"$MARKET/made-renter"
    fi
}

# A key can't be made again, so it goes only if nothing else depends on it.
forget_renter() {
    local directory
    directory=$(cat "$MARKET/made-renter" 2>/dev/null) || return 0
    [ -d "$directory" ] || return 0
    if [ "$("$BIN/golem" --quiet vm list --json 2>/dev/null)" = '{"vms":[]}' ]; then
        rm -rf "$directory"
    else
        note "You have machines elsewhere, so your key and the list of them stay: $directory"
    fi
}
