# shellcheck shell=bash
# What the scripts beside this directory show: readable on a terminal, plain in a pipe or log. To be sourced.
#
#   title TEXT              what this is
#   step NAME TEXT…         one line for a thing that is done, or begins
#   note TEXT…              a line below it
#   warn TEXT…              something that a person should know
#   fail TEXT…              what went wrong, and the end (status 1)
#   show_log FILE           the end of a log, for a message
#   … | indented            what another program says
#   quoted WORD…            words as they would be typed into a shell
#   duration SECONDS        7s, 2m 03s

if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' yellow=$'\e[33m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' yellow='' red='' plain=''
fi

title() { printf '%s%s%s\n\n' "$bold" "$*" "$plain"; }

step() {
    local name=$1
    shift
    printf '%s▸%s %s%-14s%s %s\n' "$green" "$plain" "$bold" "$name" "$plain" "$*"
}

note() { printf '  %s%s%s\n' "$dim" "$*" "$plain"; }

warn() { printf '%s! %s%s\n' "$yellow" "$*" "$plain" >&2; }

fail() {
    printf '\n%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# What another program says, line by line as it comes.
indented() { sed -u "s/^/  $dim/; s/\$/$plain/"; }

show_log() {
    if [ -s "$1" ]; then
        printf '%sThe end of %s:%s\n' "$dim" "$1" "$plain" >&2
        tail -n 15 "$1" | sed 's/^/  | /' >&2
    fi
}

quoted() {
    local word line=
    for word in "$@"; do
        case $word in
        '' | *[!A-Za-z0-9_./:=@%+,~-]*) word="'${word//\'/\'\\\'\'}'" ;;
        esac
        line+=" $word"
    done
    printf '%s' "${line# }"
}

duration() {
    if [ "$1" -lt 60 ]; then
        printf '%ds' "$1"
    else
        printf '%dm %02ds' $(($1 / 60)) $(($1 % 60))
    fi
}
