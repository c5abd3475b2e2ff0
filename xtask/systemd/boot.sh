#!/usr/bin/env bash
# A real systemd as PID 1 of namespaces of its own, on an overlay of this machine's root: nothing that
# happens inside reaches the machine. Needs root, overlayfs, cgroup2 and the package systemd.
#   boot.sh can              says whether this machine can do that; why not, on stderr
#   boot.sh start DIR        boots it; DIR/share is seen inside as /mnt
#   boot.sh run DIR CMD...   runs a command inside
#   boot.sh stop DIR         ends it, with everything that runs inside
# DIR must be on a file system that an overlay can write to (ext4, xfs, tmpfs), not on an overlay.
set -u
what=${1:?can, start, run or stop}
if [ "$what" = can ]; then
  [ "$(id -u)" = 0 ] || { echo "systemd in namespaces needs root" >&2; exit 1; }
  [ -x /lib/systemd/systemd ] || { echo "the package systemd is not installed" >&2; exit 1; }
  # Where package.sh will work: an overlay cannot lie on every file system.
  target=${CARGO_TARGET_DIR:-$(dirname "$0")/../../target}
  mkdir -p "$target" && try=$(mktemp -d "$target/overlay.XXXXXX") || exit 1
  trap 'rm -rf --one-file-system "$try"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$try"/{upper,work,root} || exit 1
  # The mounts end with their namespace.
  TRY=$try unshare --mount --cgroup bash -c 'mount -t overlay overlay -o "lowerdir=/,upperdir=$TRY/upper,workdir=$TRY/work" "$TRY/root" && mount -t cgroup2 cgroup2 "$TRY/root/mnt"' >&2
  exit
fi
dir=$(readlink -f "${2:?a directory}"); shift 2

inside() {
  nsenter --target "$(cat "$dir/init")" --mount --pid --cgroup --net --uts --ipc --root --wd \
    env -i container=unshare LANG=C.UTF-8 TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

case $what in
start)
  mkdir -p "$dir"/{upper,work,root,share}
  BASE=$dir unshare --mount --propagation private --pid --fork --kill-child --cgroup --net --uts --ipc bash -c '
    set -e
    new=$BASE/root
    mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" "$new"
    mount -t proc proc "$new/proc"
    mount -t sysfs sysfs "$new/sys"
    mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
    mount -t bpf -o mode=0700 bpf "$new/sys/fs/bpf"
    mount -t tmpfs tmpfs "$new/run"
    mount -t tmpfs tmpfs "$new/tmp"
    mount --rbind /dev "$new/dev"
    mount --bind "$BASE/share" "$new/mnt"
    hostname inside
    ip link set lo up
    exec chroot "$new" env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
      /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=false
  ' >"$dir/log" 2>&1 </dev/null &
  outer=$!; disown
  echo "$outer" >"$dir/outer"
  for _ in $(seq 100); do
    init=$(pgrep -P "$outer" | head -n1)
    [ -n "$init" ] && [ "$(cat "/proc/$init/comm" 2>/dev/null)" = systemd ] && break
    init=; sleep 0.1
  done
  [ -n "$init" ] || { echo "systemd did not start:" >&2; tail -n5 "$dir/log" >&2; exit 1; }
  echo "$init" >"$dir/init"
  for _ in $(seq 300); do
    inside systemctl --quiet is-active basic.target 2>/dev/null && exit 0
    sleep 0.2
  done
  echo "basic.target was not reached:" >&2; tail -n5 "$dir/log" >&2; exit 1;;
run) inside "$@";;
stop)
  # The kernel ends a PID namespace with its first process, the child of unshare; where that was not
  # found, it ends with unshare.
  for which in init outer; do [ -s "$dir/$which" ] && kill -9 "$(cat "$dir/$which")" 2>/dev/null; done
  for which in init outer; do
    [ -s "$dir/$which" ] || continue
    for _ in $(seq 100); do kill -0 "$(cat "$dir/$which")" 2>/dev/null || break; sleep 0.1; done
  done
  rm -f "$dir/init" "$dir/outer";;
*) echo "can, start, run or stop" >&2; exit 2;;
esac
