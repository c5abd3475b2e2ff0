#!/usr/bin/env bash
# Runs the packet tests on Debian 12's own kernel (6.1: no tcx, so clsact; no newer helper), in a small
# VM under software emulation. Downloads the kernel package, installs nothing on this machine. That kernel
# also has IPVS: our back end for it, and whether both pick the same servers, is tested there.
#   [NINES_VM_ONLY=words] [NINES_VM_COUNT=1] xtask/vm/packets.sh TEST_BINARY [KERNEL_OBJECT]
# NINES_VM_COUNT: its clock counts instructions, one a nanosecond, and only what goes by that is tested.
set -euo pipefail
tests=$1 object=${2:-}
work=$(mktemp -d /tmp/nines-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nines-vm
mkdir -p "$cache"

image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/ {print $2; exit}')
[ -n "$image" ] || { echo "no linux-image-amd64 in apt's lists: apt-get update" >&2; exit 1; }
# In the order in which they are loaded.
modules="veth sch_ingress cls_bpf crc32c_generic libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack ip_vs"
# Devices on devices.
modules="$modules llc stp garp mrp 8021q tls bonding bridge"
for s in rr wrr lc wlc fo ovf lblc lblcr dh sh mh sed nq; do modules="$modules ip_vs_$s"; done
kept=$cache/$image.$(echo "$modules" | cksum | cut -d' ' -f1)
if [ ! -d "$kept" ]; then
  (cd "$work" && apt-get download -qq "$image" && dpkg -x linux-image-*.deb tree)
  mkdir -p "$kept.new/modules"
  cp "$work"/tree/boot/vmlinuz-* "$kept.new/vmlinuz"
  for m in $modules; do
    find "$work/tree" -name "$m.ko*" -exec cp {} "$kept.new/modules/" \;
  done
  mv "$kept.new" "$kept"
fi

root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run}
cp "$(command -v busybox)" "$root/bin/busybox"
for a in sh mount insmod poweroff cat ls uname; do ln -s busybox "$root/bin/$a"; done
put() { # a program with its libraries
  cp -L "$1" "$root/bin/$2"
  ldd "$1" | grep -oE '/[^ ]+' | while read -r l; do
    mkdir -p "$root$(dirname "$l")"; cp -L "$l" "$root$l"; done
}
put "$tests" packets
put "$(command -v ip || echo /sbin/ip)" ip
[ -z "$object" ] || cp "$object" "$root/object.o"
cp "$kept"/modules/* "$root/"
echo "$modules" > "$root/modules"
cat > "$root/init" <<'I'
#!/bin/sh
export PATH=/bin CI=true
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
for m in $(cat /modules); do insmod /$m.ko; done
ip link set lo up
[ -e /object.o ] && export NINES_BPF_OBJECT=/object.o
export NINES_IPVS=here
[ ! -e /count ] || export NINES_INSTRUCTIONS=counted
echo "vm: Linux $(uname -r)"
if [ -e /count ] || [ -s /only ]; then
  packets --test-threads=1 ${NINES_INSTRUCTIONS:+--nocapture} $(cat /only)
else
  # What IPVS does is the whole machine's: its tests have that to themselves.
  packets --test-threads=2 --skip ipvs && packets --test-threads=1 ipvs
fi
echo "VM-EXIT:$?"
poweroff -f
I
machine=(-accel tcg -smp 2) only=${NINES_VM_ONLY:-}
if [ -n "${NINES_VM_COUNT:-}" ]; then
  machine=(-accel "tcg,thread=single" -icount "shift=0,sleep=off" -smp 1) only=instructions
  touch "$root/count"
fi
printf "%s" "$only" > "$root/only"
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd"
timeout "${NINES_VM_SECONDS:-1200}" qemu-system-x86_64 "${machine[@]}" -cpu max -m 1024 -display none -no-reboot \
  -kernel "$kept/vmlinuz" -initrd "$work/initrd" -serial stdio \
  -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr nowatchdog init_on_alloc=0 audit=0 lsm= cryptomgr.notests=1" </dev/null | stdbuf -oL tr -d '\r' | tee "$work/out"
grep -q '^VM-EXIT:0$' "$work/out"
