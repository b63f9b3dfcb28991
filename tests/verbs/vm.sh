#!/bin/bash
# A virtual machine with RDMA in its kernel (soft-RoCE: rdma_rxe), for programs of this machine.
#
#   vm.sh prepare CACHE                        downloads and unpacks what it needs, once
#   vm.sh run CACHE DIR SECONDS COMMAND...     runs COMMAND in it, as root, in DIR
#
# The guest's root is this machine's, read-only beneath a tmpfs, so programs run at the path they
# have here and what they change is gone afterwards; DIR alone is shared for writing. It has two
# processors and no network but what COMMAND makes: modules for dummy, veth and rdma_rxe are loaded.
# Its output is COMMAND's, its status too; 124: SECONDS were over; 125: no guest could be had, and why.
#
# Needs an x86-64 Debian with apt's package lists; no root, no KVM (used where there is one), and
# nothing is installed. The kernel is Debian's own.
set -euo pipefail

fail() {
  echo "verbs VM: $*" >&2
  exit 125
}

# The transport of files, the network devices, RDMA. crc32_generic is asked for by rdma_rxe at run time.
modules='virtio_pci 9pnet_virtio 9p overlay crc32_generic rdma_rxe ib_uverbs dummy veth'

fetch() { # FOLDER PACKAGE...: as files, nothing is installed
  local folder=$1
  shift
  mkdir -p "$folder"
  (cd "$folder" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$@") >"$folder.log" 2>&1 ||
    fail "$(grep -m 1 '^E:' "$folder.log" | cut -c 1-200 || echo 'apt-get download failed')"
}

# Into a tree that can lie over a root whose /bin and /lib are links.
unpack() { # FOLDER-OF-PACKAGES TREE
  local package
  for package in "$1"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$2" --no-same-owner \
      --exclude='./usr/share/doc' --exclude='./usr/share/man' --transform='flags=r;s,^\./\(bin\|sbin\|lib\)\(/\|$\),./usr/\1\2,'
  done
}

# A kernel image carries the kernel packed (Linux x86 boot protocol: setup_sects, payload_offset,
# payload_length). Unpacked, it need not unpack itself in an emulator.
unpack_kernel() { # IMAGE VMLINUX
  number() { od -An -v -t "u$2" -j "$1" -N "$2" "$image" | tr -d ' '; }
  local image=$1 start length
  start=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
  length=$(number 588 4)
  tail -c "+$((start + 1))" "$image" | head -c "$length" | xz -dc --single-stream >"$2" 2>/dev/null || true
  [ "$(head -c 4 "$2" | tail -c 3)" = ELF ] || fail "the kernel in $image is not packed with xz"
}

write_init() {
  cat <<'INIT'
#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
  case $word in guest_*) eval "$word" ;; esac
done
end() {
  echo "guest: $*"
  poweroff -f
}
while read -r module; do insmod "/modules/$module" || end "insmod $module failed"; done </modules/order
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t devpts devpts /dev/pts
options=trans=virtio,version=9p2000.L,msize=262144
mount -t 9p -o "ro,cache=loose,$options" machine /machine || end 'no root'
mount -t 9p -o "ro,cache=loose,$options" packages /packages || end 'no packages'
mount -t tmpfs -o size=75% tmpfs /changes
mkdir /changes/files /changes/work
mount -t overlay -o lowerdir=/packages:/machine,upperdir=/changes/files,workdir=/changes/work overlay /root || end 'no overlay'
for folder in proc sys dev; do mount --move "/$folder" "/root/$folder"; done
mount -t tmpfs tmpfs /root/run
mkdir -p "/root$guest_share"
mount -t 9p -o "rw,cache=none,$options" share "/root$guest_share" || end 'no share'
hostname guest
ip link set lo up
ulimit -l unlimited
chroot /root /bin/bash "$guest_share/.job" >"/root$guest_share/.output" 2>&1 </root/dev/null
echo $? >"/root$guest_share/.status"
end 'done'
INIT
}

prepare() { # CACHE
  local cache=$1 build kernel release missing tools
  [ ! -e "$cache/release" ] || return 0
  [ "$(uname -m)" = x86_64 ] || fail "this machine is not x86-64"
  for tool in apt-get apt-cache dpkg-deb xz od awk; do
    command -v "$tool" >/dev/null || fail "this machine has no $tool"
  done
  kernel=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)$/\1/p' | head -n 1)
  [ -n "$kernel" ] || fail "apt knows no linux-image-amd64: run apt-get update"
  release=${kernel#linux-image-}
  mkdir -p "$(dirname "$cache")"
  build=$(mktemp -d "$cache.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$build'" EXIT
  mkdir -p "$build"/{tools,packages,kernel} "$build"/initrd/{bin,modules,proc,sys,dev,machine,packages,changes,root}
  missing=
  command -v qemu-system-x86_64 >/dev/null ||
    missing=$(apt-get -s install --no-install-recommends qemu-system-x86 2>/dev/null | awk '/^Inst/ { print $2 }')
  # shellcheck disable=SC2086
  fetch "$build/debs-tools" busybox-static kmod $missing
  fetch "$build/debs-packages" perftest libibumad3 libpci3 librdmacm1 libibverbs1 ibverbs-providers libnl-3-200 libnl-route-3-200
  fetch "$build/debs-kernel" "$kernel"
  unpack "$build/debs-tools" "$build/tools"
  unpack "$build/debs-packages" "$build/packages"
  unpack "$build/debs-kernel" "$build/kernel"
  unpack_kernel "$build/kernel/boot/vmlinuz-$release" "$build/vmlinux"
  write_initrd "$build" "$release"
  rm -rf "$build"/{debs-*,kernel,initrd}
  echo "$release" >"$build/release"
  mv -T "$build" "$cache" 2>/dev/null || [ -e "$cache/release" ] || fail "cannot write $cache"
}

write_initrd() { # BUILD RELEASE
  local build=$1 module file
  ln -sf kmod "$build/tools/usr/bin/modprobe"
  ln -sf kmod "$build/tools/usr/bin/depmod"
  "$build/tools/usr/bin/depmod" -b "$build/kernel/usr" "$2"
  for module in $modules; do
    "$build/tools/usr/bin/modprobe" -d "$build/kernel/usr" -S "$2" --show-depends "$module"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$build/order"
  while read -r file; do
    cp "$file" "$build/initrd/modules/"
    basename "$file"
  done <"$build/order" >"$build/initrd/modules/order"
  cp "$build/tools/usr/bin/busybox" "$build/initrd/bin/"
  ln -s busybox "$build/initrd/bin/sh"
  write_init >"$build/initrd/init"
  chmod +x "$build/initrd/init"
  (cd "$build/initrd" && find . | "$build/tools/usr/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$build/initrd.gz"
}

find_qemu() { # CACHE: sets qemu
  local tools=$1/tools
  qemu=(qemu-system-x86_64)
  command -v qemu-system-x86_64 >/dev/null ||
    qemu=(env "LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu" "$tools/usr/bin/qemu-system-x86_64"
      -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios")
  # a /dev/kvm without one of these behind it takes the machine and then hangs
  if [ -w /dev/kvm ] && { [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; }; then
    qemu+=(-accel kvm -cpu host)
  else
    qemu+=(-accel 'tcg,thread=multi,tb-size=512' -cpu max)
  fi
}

write_job() { # DIR COMMAND...
  local share=$1
  shift
  {
    echo 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8'
    printf 'cd %q || exit 125\nexec' "$share"
    printf ' %q' "$@"
    echo
  } >"$share/.job"
}

run() { # CACHE DIR SECONDS COMMAND...
  local cache share=$2 seconds=$3 status=0
  cache=$(realpath "$1")
  share=$(realpath "$2")
  shift 3
  [[ $cache$share != *[[:space:],]* ]] || fail "no blanks or commas in $cache or $share"
  rm -f "$share"/.status "$share"/.output
  write_job "$share" "$@"
  find_qemu "$cache"
  local files='security_model=none,multidevs=remap'
  timeout -k 5 "$seconds" "${qemu[@]}" -M pc,usb=off,vmport=off -smp 2 -m 2560 -nodefaults -no-user-config \
    -display none -no-reboot -nic none -kernel "$cache/vmlinux" -initrd "$cache/initrd.gz" \
    -append "console=ttyS0 quiet loglevel=4 panic=-1 guest_share=$share" -serial "file:$share/.console" \
    -virtfs "local,path=/,mount_tag=machine,readonly=on,$files" \
    -virtfs "local,path=$cache/packages,mount_tag=packages,readonly=on,$files" \
    -virtfs "local,path=$share,mount_tag=share,$files" </dev/null >"$share/.qemu" 2>&1 || status=$?
  cat "$share/.output" 2>/dev/null || true
  if [ -s "$share/.status" ]; then
    exit "$(cat "$share/.status")"
  fi
  tail -n 15 "$share/.console" "$share/.qemu" >&2
  [ "$status" != 124 ] || { echo "verbs VM: not done after $seconds s" >&2 && exit 124; }
  fail "the guest ended without a status (qemu: $status)"
}

case ${1:-} in
  prepare) prepare "$2" ;;
  run) shift && run "$@" ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
