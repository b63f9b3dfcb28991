#!/bin/bash
# The link verbs beside ib_write_bw on the same two devices, by turns. Runs in the guest of vm.sh.
#   guest_bench.sh BENCH_LINK
# ib_write_bw's own figures go by the processor's time stamps, which an emulator does not keep: what
# it sends is read off the interfaces instead. That counts headers too, 1.4% in its favour.
set -euo pipefail
# shellcheck source=tests/verbs/guest_devices.sh
. "$(dirname "$(realpath "$0")")/guest_devices.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none \
  OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
bench_link=$1 turns=3
cd /tmp
add_wire

sent() { # bytes, both directions
  echo $(($(cat /sys/class/net/wire0/statistics/tx_bytes) + $(cat /sys/class/net/wire1/statistics/tx_bytes)))
}
sends() { [ "$(sent)" -gt "$before" ]; }

perftest() { # messages of 1 MiB and an ack timeout of 18, as the link has
  local server client before start bytes
  ib_write_bw -b -d rxe0 -x 1 -u 18 -s 1048576 -n 100000 >server.log 2>&1 &
  server=$!
  devices_until 20 grep -q ':4853 .* 0A ' /proc/net/tcp /proc/net/tcp6 # it listens on its port, 18515
  before=$(($(sent) + 20000000))
  ib_write_bw -b -d rxe1 -x 1 -u 18 -s 1048576 -n 100000 127.0.0.1 >client.log 2>&1 &
  client=$!
  devices_until 20 sends || { cat server.log client.log && exit 1; }
  for _ in 1 2 3; do
    bytes=$(sent) start=$(date +%s%N)
    sleep 1
    echo "$((($(sent) - bytes) * 10000 / ($(date +%s%N) - start)))" | sed 's/.$/.& ib_write_bw/'
  done >>rates
  kill "$server" "$client" || { cat server.log client.log && exit 1; }
  wait "$server" "$client" 2>/dev/null || true
}
link() { # LINK
  mpirun -n 2 "$bench_link" "$1" 64 2 | sed "s/$/ of $1/" >>rates
}
# Short turns, so that what else the machine does meets all alike.
for turn in $(seq "$turns"); do
  perftest
  link verbs
  echo "turn $turn of $turns"
done
link mpi
echo "MB/s in the middle, both directions together:"
sort -n rates | awk '
  { value = $1; $1 = ""; rate[$0, ++count[$0]] = value }
  END { for (name in count) printf " %-20s %6.1f\n", name, rate[name, int((count[name] + 1) / 2)] }'
