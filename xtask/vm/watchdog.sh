#!/usr/bin/env bash
# Shows a real reset: an agent that holds a VIP is stopped (SIGSTOP) in a small VM with Debian's kernel and its
# softdog, and the machine must be gone within the lease; before that, a clean stop must leave it running. Downloads
# the kernel package, installs nothing on this machine. It takes some minutes and is not part of .ci/run.
#   xtask/vm/watchdog.sh NINES_BINARY
set -euo pipefail
nines=$1
work=$(mktemp -d /tmp/nines-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/nines-vm
mkdir -p "$cache"

image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/ {print $2; exit}')
[ -n "$image" ] || { echo "no linux-image-amd64 in apt's lists: apt-get update" >&2; exit 1; }
modules="watchdog softdog veth dummy sch_ingress cls_bpf"
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
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run/nines,var/lib/nines,etc}
cp "$(command -v busybox)" "$root/bin/busybox"
for a in sh mount insmod poweroff cat sleep kill grep mkdir; do ln -s busybox "$root/bin/$a"; done
put() { # a program with its libraries
  cp -L "$1" "$root/bin/$2"
  ldd "$1" | grep -oE '/[^ ]+' | while read -r l; do
    mkdir -p "$root$(dirname "$l")"; cp -L "$l" "$root$l"; done
}
put "$nines" nines
put "$(command -v ip || echo /sbin/ip)" ip
cp "$kept"/modules/* "$root/"
cat > "$root/cluster.toml" <<'C'
[cluster]
name = "vm"
[nodes]
lb1 = "10.77.0.1"
[vip.one]
address = "10.77.0.100/24"
[fencing]
watchdog = "/dev/watchdog"
C
cat > "$root/init" <<'I'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf; mkdir -p /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup
for m in watchdog softdog veth dummy sch_ingress cls_bpf; do [ ! -e /$m.ko ] || insmod /$m.ko; done
/bin/ip link set lo up
/bin/ip link add eth0 type veth peer name eth1; /bin/ip link set eth0 up; /bin/ip link set eth1 up
/bin/ip address add 10.77.0.1/24 dev eth0
echo "VM: Linux $(cat /proc/sys/kernel/osrelease)"
nines init vm --node lb1 --address 10.77.0.1 > /dev/null || echo "VM: init failed"
begins() {
  nines agent & agent=$!
  n=0
  until nines status > /dev/null 2>&1 || [ $n = 60 ]; do sleep 1; n=$((n + 1)); done
  nines apply --yes /cluster.toml || echo "VM: apply failed"
  n=0
  until nines status -o json | grep -q '"watchdog_ms": *2000' || [ $n = 60 ]; do sleep 1; n=$((n + 1)); done
  n=0
  until nines status -o json | grep -q '"answers_here": *true' || [ $n = 60 ]; do sleep 1; n=$((n + 1)); done
  nines status
}
nines guard & guard=$!
begins
echo "VM: stops cleanly"
kill -TERM $agent; wait $agent
sleep 8
echo "VM-STILL-HERE"
begins
echo "VM-STOPS-THE-AGENT"
kill -STOP $agent
sleep 30
echo "VM-SURVIVED"
poweroff -f
I
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd"
# -no-reboot: a reset ends the machine.
timeout "${NINES_VM_SECONDS:-900}" qemu-system-x86_64 -accel tcg -smp 2 -cpu max -m 1024 -display none -no-reboot \
  -kernel "$kept/vmlinuz" -initrd "$work/initrd" -serial stdio \
  -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr audit=0 lsm= cryptomgr.notests=1" \
  </dev/null | stdbuf -oL tr -d '\r' | tee "$work/out"
grep -q '^VM-STILL-HERE' "$work/out" || { echo "a clean stop must leave the machine running" >&2; exit 1; }
grep -q '^VM-STOPS-THE-AGENT' "$work/out" || { echo "the agent never held its VIP with an armed watchdog" >&2; exit 1; }
! grep -q '^VM-SURVIVED' "$work/out" || { echo "a machine whose agent stands still must be reset" >&2; exit 1; }
echo "the machine was reset"
