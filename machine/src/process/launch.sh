# Prepares what a machine's QEMU may see, and goes on as the program that is named at the end.
# Runs in a mount namespace of its own, as root there. Arguments:
#   STAGE      an empty directory
#   LOG_BYTES  how big the file system for the console's log is
#   OWNER      the user id that QEMU gets, or - where it keeps the one it has
#   3|-        whether descriptor 3 is one that QEMU gets
#   rw|ro DIRECTORY NAME ...    directories of the host, and as what it sees each below /mnt
#   hide DIRECTORY ...          directories of the host that it does not see
#   --                          then the program and its arguments
set -eu
exec 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
# mount -n: only root may write down what is mounted.
umask 077
cd /
stage=$1 log_bytes=$2 owner=$3
[ "$4" = 3 ] || exec 3>&-
shift 4
mount -n -t tmpfs -o "size=$log_bytes,nr_inodes=64,mode=0755,nosuid,noexec" golem "$stage"
mkdir -m 0700 "$stage/log"
[ "$owner" = - ] || chown "$owner:$owner" "$stage/log"
while [ "$1" = rw ] || [ "$1" = ro ]; do
    mkdir -m 0755 "$stage/$3"
    mount -n --bind "$2" "$stage/$3"
    # Where this is not really root, some mounts can't be changed: the files' modes keep them then.
    [ "$1" = rw ] || mount -n -o remount,bind,ro,nosuid,nodev,noexec "$stage/$3" 2>/dev/null || :
    shift 3
done
# Root may well keep /dev/net/tun to itself: QEMU, which is not root, gets one of its own.
if [ "$owner" != - ] && mknod -m 0666 "$stage/tun" c 10 200 2>/dev/null; then
    mount -n --bind "$stage/tun" /dev/net/tun 2>/dev/null || :
fi
# All at once to where another user can reach it: what is above the host's directories is closed to others.
mount -n --move "$stage" /mnt
while [ "$1" = hide ]; do
    mount -n -t tmpfs -o ro,size=4k,nr_inodes=2,mode=0 golem "$2"
    shift 2
done
shift
exec "$@"
