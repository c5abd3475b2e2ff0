#!/usr/bin/env bash
# Runs the packet tests on Debian 12's own kernel (6.1: no tcx, so clsact; no newer helper), in a small
# VM under software emulation. Downloads the kernel package, installs nothing on this machine. That kernel
# also has IPVS: our back end for it, and whether both pick the same servers, is tested there.
#   [NINES_VM_ONLY=words] [NINES_VM_COUNT=1] xtask/vm/packets.sh TEST_BINARY [KERNEL_OBJECT]
# NINES_VM_COUNT: its clock counts instructions, one a nanosecond, and only what goes by that is tested.
set -euo pipefail
tests=$1 object=${2:-}
. "$(dirname "$0")/machine.sh"

# In the order in which they are loaded.
modules="veth sch_ingress cls_bpf crc32c_generic libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack ip_vs"
# Devices on devices.
modules="$modules llc stp garp mrp 8021q tls bonding bridge"
for s in rr wrr lc wlc fo ovf lblc lblcr dh sh mh sed nq; do modules="$modules ip_vs_$s"; done
kernel $modules

system ls uname
put "$tests" packets
[ -z "$object" ] || cp "$object" "$root/object.o"
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
boot 1200 "nowatchdog init_on_alloc=0" "${machine[@]}"
grep -q '^VM-EXIT:0$' "$work/out"
