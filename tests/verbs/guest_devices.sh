# Network interfaces and soft-RoCE devices inside the guest. To be sourced there, as root.
# shellcheck shell=bash

devices_until() { # SECONDS COMMAND...: polls
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -le $end ] || return 1
    sleep 0.05
  done
}

device_state() { # DEVICE STATE
  grep -q "$2" "/sys/class/infiniband/$1/ports/1/state" 2>/dev/null
}

# Frames of 4200 bytes carry RDMA packets of 4096.
interface_up() { # INTERFACE
  echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_dad"
  ip link set "$1" mtu 4200 up
}

add_device() { # DEVICE INTERFACE
  rdma link add "$1" type rxe netdev "$2"
  devices_until 10 test -e "/sys/class/infiniband/$1/ports/1/state"
}

# DEVICE INTERFACE: an interface that goes nowhere, without an IP address; only its link-local GID.
add_bare() {
  ip link add "$2" type dummy 2>/dev/null || true # the module may have made one
  interface_up "$2"
  add_device "$1" "$2"
}

# wire0 10.77.0.1 with rxe0, wire1 10.77.0.2 with rxe1, joined by a cable that can be pulled.
# Packets between two addresses of one machine do not leave it, so the table of own addresses is
# looked at only for what arrives, or what stays on its interface.
add_wire() {
  local i other
  ip link add wire0 type veth peer name wire1
  echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
  for i in 0 1; do
    other=$((1 - i))
    interface_up "wire$i"
    echo 0 >"/proc/sys/net/ipv4/conf/wire$i/rp_filter"
    echo 1 >"/proc/sys/net/ipv4/conf/wire$i/accept_local"
    echo 1 >"/proc/sys/net/ipv4/conf/wire$i/arp_ignore"
    ip addr add "10.77.0.$((i + 1))/32" dev "wire$i"
    ip rule add pref $((10 + i)) iif "wire$i" lookup local
    ip rule add pref $((20 + i)) oif "wire$i" to "10.77.0.$((other + 1))" lookup $((101 + i))
    ip route add "10.77.0.$((other + 1))" dev "wire$i" src "10.77.0.$((i + 1))" table $((101 + i))
  done
  ip rule add pref 100 lookup local
  ip rule del pref 0
  add_device rxe0 wire0
  add_device rxe1 wire1
  devices_until 10 device_state rxe0 ACTIVE
  devices_until 10 device_state rxe1 ACTIVE
}

cut_wire() { ip link set wire1 down; }
mend_wire() { # routes are lost with their interface
  ip link set wire1 up
  ip route replace 10.77.0.1 dev wire1 src 10.77.0.2 table 102
  ip route replace 10.77.0.2 dev wire0 src 10.77.0.1 table 101
  devices_until 10 device_state rxe1 ACTIVE
  devices_until 10 device_state rxe0 ACTIVE
}

# As a switch that has lost its way: ports stay active, and what is sent is never seen again.
lose_packets() {
  ip rule add pref 1 iif wire0 blackhole
  ip rule add pref 1 iif wire1 blackhole
}
find_packets() {
  ip rule del pref 1
  ip rule del pref 1
}
