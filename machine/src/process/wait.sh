# Becomes a machine's QEMU as soon as it is told to. Runs in all of its namespaces. Arguments:
#   INPUT      what QEMU reads from, as it sees it; then the program that gives up all rights, and becomes QEMU
set -eu
input=$1
shift
echo ready
exec 1>&2
IFS= read -r word || exit 3
[ "$word" = go ] || exit 3
exec "$@" <"$input"
