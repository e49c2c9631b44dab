# Becomes a machine's slirp4netns as soon as it is told to. Runs as the machine's user in the host's network
# namespace. Arguments:
#   DIRECTORY      where it works
#   OPEN_FILES     how many it may have, if its user may have as many
#   MEMORY_KIB     its address space at most
#   then the program and its arguments
set -eu
# It may say what it likes when nobody reads it any more.
trap '' PIPE
cd "$1"
ulimit -c 0
ulimit -n "$2" 2>/dev/null || ulimit -n "$(ulimit -H -n)"
ulimit -v "$3"
shift 3
IFS= read -r word || exit 3
[ "$word" = go ] || exit 3
exec "$@" </dev/null
