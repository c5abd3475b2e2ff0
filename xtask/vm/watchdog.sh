#!/usr/bin/env bash
# Shows a real reset: an agent that holds a VIP is stopped (SIGSTOP) in a small VM with Debian's kernel and its
# softdog, and the machine must be gone within the lease; before that, a clean stop must leave it running. Downloads
# the kernel package, installs nothing on this machine. It takes some minutes and is not part of .ci/run.
#   xtask/vm/watchdog.sh NINES_BINARY
set -euo pipefail
nines=$1
. "$(dirname "$0")/machine.sh"

modules="watchdog softdog veth dummy sch_ingress cls_bpf"
kernel $modules

system sleep kill grep mkdir
mkdir -p "$root"/{run/nines,var/lib/nines,etc}
put "$nines" nines
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
boot 900 "" -accel tcg -smp 2
grep -q '^VM-STILL-HERE' "$work/out" || { echo "a clean stop must leave the machine running" >&2; exit 1; }
grep -q '^VM-STOPS-THE-AGENT' "$work/out" || { echo "the agent never held its VIP with an armed watchdog" >&2; exit 1; }
! grep -q '^VM-SURVIVED' "$work/out" || { echo "a machine whose agent stands still must be reset" >&2; exit 1; }
echo "the machine was reset"
