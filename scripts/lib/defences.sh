# shellcheck shell=bash
# The files of scripts/defences: what each says, and taking a defence out of a tree. To be sourced.
#
#   read_defence FILE       sets threat, defence, test_command (one array element per word), and for each block
#                           edit_file, edit_take, edit_put; fails with a line that says what is wrong with it
#   check_defence TREE      what read_defence has set fits the sources: each text is there once, the test exists
#   remove_defence TREE KEPT   puts every block's other text in its place; the files go to the directory KEPT before
#   restore_defence TREE KEPT  copies the files back; they are newer than before, so that cargo notices
#
# A text is one or more whole lines. Comparing is by bytes.

# The variables are read by who sources this.
# shellcheck disable=SC2034

threat='' defence='' edit_file=() edit_take=() edit_put=() test_command=()

# Says what is wrong with a file of defences, with the line if there is one.
defence_error() { printf '%s: %s\n' "$1" "$2" >&2; }

# A whole file, its last line break too.
slurp() { IFS= read -r -d '' "$2" <"$1" || true; }

read_defence() {
    local path=$1 line number=0 state=fields take='' put='' has_line='' word
    threat='' defence='' edit_file=() edit_take=() edit_put=() test_command=()
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        case $state:$line in
        fields:threat:\ ?*) threat=${line#threat: } ;;
        fields:defence:\ ?*) defence=${line#defence: } ;;
        fields:test:\ ?*) read -ra test_command <<<"${line#test: }" ;;
        fields:file:\ ?*)
            if [ "${#edit_file[@]}" -ne "${#edit_put[@]}" ]; then
                defence_error "$path:$number" "the file before this one has no '--- take'"
                return 1
            fi
            edit_file+=("${line#file: }")
            ;;
        fields:---\ take)
            if [ "${#edit_file[@]}" -ne $((${#edit_put[@]} + 1)) ]; then
                defence_error "$path:$number" "'--- take' needs a 'file:' of its own"
                return 1
            fi
            state=take take='' has_line=
            ;;
        take:---\ put)
            if [ -z "$has_line" ]; then
                defence_error "$path:$number" "there is nothing to take"
                return 1
            fi
            state=put put=
            ;;
        put:---\ end)
            if [ "$take" = "$put" ]; then
                defence_error "$path:$number" "what is taken and what is put are the same"
                return 1
            fi
            edit_take+=("$take") edit_put+=("$put")
            state=fields
            ;;
        take:*) take+=$line$'\n' has_line=yes ;;
        put:*) put+=$line$'\n' ;;
        fields:) ;;
        *)
            defence_error "$path:$number" "not understood: $line"
            return 1
            ;;
        esac
    done <"$path"
    for word in threat defence; do
        if [ -z "${!word}" ]; then
            defence_error "$path" "there is no line '$word: …'"
            return 1
        fi
    done
    if [ "${test_command[0]-} ${test_command[1]-}" != 'cargo test' ] || [ "${#test_command[@]}" -lt 4 ]; then
        defence_error "$path" "'test:' has to be a command like: cargo test -p PACKAGE --lib PATH::TEST"
        return 1
    fi
    if [ "$state" != fields ] || [ "${#edit_put[@]}" -eq 0 ] || [ "${#edit_file[@]}" -ne "${#edit_put[@]}" ]; then
        defence_error "$path" "a block 'file:', '--- take', '--- put', '--- end' is missing or not finished"
        return 1
    fi
}

# The test's own name: the last word of the command.
defence_test() { printf '%s' "${test_command[-1]}"; }

# How often the text $2 stands in the variable named $1, as whole lines.
occurrences() {
    local LC_ALL=C rest=$'\n'${!1} count=0
    while [[ $rest == *$'\n'"$2"* ]]; do
        rest=$'\n'${rest#*$'\n'"$2"}
        count=$((count + 1))
    done
    printf '%s' "$count"
}

check_defence() {
    local tree=$1 path=$2 content index count name good=yes
    for index in "${!edit_file[@]}"; do
        if [ ! -f "$tree/${edit_file[index]}" ]; then
            defence_error "$path" "there is no file ${edit_file[index]}"
            good=
            continue
        fi
        slurp "$tree/${edit_file[index]}" content
        count=$(occurrences content "${edit_take[index]}")
        if [ "$count" -ne 1 ]; then
            defence_error "$path" "the text to take stands in ${edit_file[index]} $count times, not once: $(head -n 1 <<<"${edit_take[index]}")"
            good=
        fi
    done
    name=$(defence_test)
    if ! grep -rqsE --include='*.rs' --exclude-dir=target "fn ${name##*::}\(" "$tree"/*/src "$tree"/*/tests "$tree"/*/benches; then
        defence_error "$path" "there is no test function ${name##*::}"
        good=
    fi
    [ -n "$good" ]
}

remove_defence() {
    local LC_ALL=C tree=$1 kept=$2 content index take
    rm -rf "$kept"
    mkdir "$kept" || return 1
    (cd "$tree" && cp --parents -- "${edit_file[@]}" "$kept") || return 1
    for index in "${!edit_file[@]}"; do
        slurp "$tree/${edit_file[index]}" content
        content=$'\n'$content
        take=$'\n'${edit_take[index]}
        content=${content%%"$take"*}$'\n'${edit_put[index]}${content#*"$take"}
        printf '%s' "${content#$'\n'}" >"$tree/${edit_file[index]}" || return 1
    done
}

restore_defence() {
    local tree=$1 kept=$2 file
    for file in "${edit_file[@]}"; do
        cp -- "$kept/$file" "$tree/$file" || return 1
    done
}
