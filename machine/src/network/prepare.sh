# Makes the guest's side of a machine's network. Runs in the machine's user and network namespaces; the rules are
# its standard input. Arguments:
#   TAP GUEST GUEST_MAC GATEWAY/PREFIX GATEWAY_MAC MTU
set -eu
tap=$1 guest=$2 guest_mac=$3 gateway=$4 gateway_mac=$5 mtu=$6
# The rules come first: there is no moment in which something passes without them.
nft -f -
cd /proc/sys/net
[ ! -e ipv6 ] || { echo 1 >ipv6/conf/all/disable_ipv6; echo 1 >ipv6/conf/default/disable_ipv6; }
# Again, after somebody was interrupted here.
ip link delete "$tap" 2>/dev/null || :
# Owned by the machine's user, whom this namespace calls 0: QEMU opens it without any right.
ip tuntap add dev "$tap" mode tap user 0
ip link set "$tap" address "$gateway_mac" mtu "$mtu"
ip address add "$gateway" dev "$tap"
ip neighbour replace "$guest" lladdr "$guest_mac" nud permanent dev "$tap"
echo 1 >ipv4/conf/all/rp_filter
echo 0 >ipv4/conf/all/send_redirects
echo 0 >ipv4/conf/all/accept_redirects
ip link set "$tap" up
echo 1 >ipv4/ip_forward
