#!/bin/sh
# Asked by invoke-rc.d: may a package start or restart this service now?
# Yes if it is enabled (update-rc.d), as on any server. There is no init to ask, so look at the links.
[ "${1:-}" != --quiet ] || shift
case "${2:-}" in
*start*)
    for link in "/etc/rc2.d/S"[0-9][0-9]"$1" "/etc/rcS.d/S"[0-9][0-9]"$1"; do
        [ ! -e "$link" ] || exit 0
    done
    exit 101
    ;;
esac
exit 0
