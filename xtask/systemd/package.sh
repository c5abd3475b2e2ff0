#!/usr/bin/env bash
# The Debian package under a real systemd: install, init, start, reload, upgrade, stop, purge; then the
# README's own install lines on a machine without the package.
#   package.sh BINARY       the program to pack and to install; a debug build will do
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
binary=$(readlink -f "${1:?the program}")
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}"); mkdir -p "$target"
work=$(mktemp -d "$target/systemd.XXXXXX")
boots=()

cleanup() {
  local rc=$? dir
  trap - EXIT INT TERM
  for dir in "${boots[@]}"; do "$here/boot.sh" stop "$dir" 2>/dev/null || true; done
  rm -rf --one-file-system "$work"
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

boot() { dir=$work/$1; mkdir -p "$dir/share"; boots+=("$dir"); "$here/boot.sh" start "$dir"; }
inside() { "$here/boot.sh" run "$dir" "$@"; }
die() { echo "FAILED: $*" >&2; inside journalctl --no-pager --lines=30 --unit nines 2>&1 | tail -n 30 >&2 || true; exit 1; }
# want WHAT TEXT COMMAND...: within 30 s the output of the command has the text
want() {
  local what=$1 text=$2 i out=; shift 2
  for i in $(seq 150); do out=$(inside "$@" 2>&1) || true; [[ $out == *"$text"* ]] && return 0; sleep 0.2; done
  die "$what: \"$text\" is not in: $out"
}
main_pid() { inside systemctl show --property=MainPID --value nines; }
# A card with an address, whose other end is the segment.
card() { inside bash -c 'ip link add d0 type veth peer name d1 && ip addr add 10.5.0.2/24 dev d0 && ip link set d0 up && ip link set d1 up'; }

cd "$root"
export CARGO_TERM_QUIET=true CARGO_TARGET_DIR=$target
mapfile -t packages < <(cargo xtask package --binary "$binary" --out "$work/first" --version 0.1.0)
[ ${#packages[@]} = 2 ] || die "cargo xtask package made ${#packages[@]} packages, not two"
first=${packages[0]}
# The same files under a newer version are an upgrade to dpkg.
second=$work/second.deb
dpkg-deb --raw-extract "$first" "$work/second"
sed -i 's/^Version: .*/Version: 0.1.1/' "$work/second/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/second" "$second" >/dev/null

boot package
cp "$first" "$dir/share/first.deb"; cp "$second" "$dir/share/second.deb"
card
inside dpkg --install /mnt/first.deb >/dev/null || die "dpkg --install"
for f in /usr/bin/nines /usr/share/man/man1/nines.1.gz /usr/share/bash-completion/completions/nines \
    /usr/lib/systemd/system/nines.service /usr/share/doc/nines/examples/cluster.toml; do
  inside test -e "$f" || die "the package has no $f"
done
inside getent group nines >/dev/null || die "there is no group nines"
inside systemctl --quiet is-active nines && die "the agent runs before init"
inside nines init shop --node lb1 --address 10.5.0.2 >/dev/null || die "init"
inside systemctl start nines || die "start"
want "status" "lb1" nines status
inside systemctl --quiet is-active nines || die "the unit is not active"
# Each fence agent gets a cgroup below the unit's own.
own=/proc/$(main_pid)/root/sys/fs/cgroup$(inside systemctl show --property=ControlGroup --value nines)
inside sh -c "mkdir $own/try && rmdir $own/try" || die "no cgroup can be made below that of the unit"
score=$(inside systemd-analyze security --no-pager nines.service | sed -n 's/.*Overall exposure level for nines.service: \([0-9.]*\).*/\1/p')
awk -v s="${score:-10}" 'BEGIN { exit !(s <= 4.0) }' || die "systemd-analyze security: $score, at most 4.0"

printf '[cluster]\nname = "shop"\n[nodes]\nlb1 = "10.5.0.2"\n[vip.v]\naddress = "10.5.0.100/24"\n' >"$dir/share/c.toml"
inside nines apply --yes /mnt/c.toml >/dev/null || die "apply under the unit's limits"
want "the VIP" "10.5.0.100" ip -brief addr show dev d0
pid=$(main_pid)
inside systemctl reload nines || die "reload"
want "after reload" "10.5.0.100" ip -brief addr show dev d0
[ "$(main_pid)" = "$pid" ] || die "reload gave another process"
inside dpkg --install /mnt/second.deb >/dev/null || die "upgrade"
[ "$(main_pid)" = "$pid" ] || die "the upgrade restarted the agent instead of replacing it in place"
want "after the upgrade" "lb1" nines status
want "after the upgrade" "10.5.0.100" ip -brief addr show dev d0

# quorumd beside the agent, as the witness of this very cluster: another user, another state directory.
cp "${packages[1]}" "$dir/share/quorumd.deb"
inside dpkg --install --force-depends-version /mnt/quorumd.deb >/dev/null 2>&1 || die "dpkg --install of quorumd"
inside systemctl --quiet is-active nines-quorumd || die "quorumd does not run after its installation"
quorumd=$(inside systemd-analyze security --no-pager nines-quorumd.service | sed -n 's/.*Overall exposure level for nines-quorumd.service: \([0-9.]*\).*/\1/p')
awk -v s="${quorumd:-10}" 'BEGIN { exit !(s <= 2.0) }' || die "systemd-analyze security of quorumd: $quorumd, at most 2.0"
code=$(inside nines code --witness | awk '/nines join/ { print $4 }')
inside nines quorumd join 10.5.0.2 "$code" --node q --address 10.5.0.2 >/dev/null || die "quorumd join"
want "quorumd" "2 of 2" nines quorumd list
[ "$(inside stat -c %U /var/lib/nines-quorumd/shop/log.redb)" = nines-quorumd ] || die "the log of quorumd is not its user's"
inside systemctl restart nines-quorumd || die "restart of quorumd"
want "quorumd after a restart" "2 of 2" nines quorumd list
inside nines node remove q --reason test >/dev/null || die "removal of quorumd's witness"
want "quorumd" "removed" nines quorumd list
inside nines quorumd forget shop >/dev/null || die "quorumd forget"
inside dpkg --remove nines-quorumd >/dev/null 2>&1 || die "removal of the package of quorumd"
inside systemctl --quiet is-active nines-quorumd && die "quorumd runs after its removal"
inside dpkg --install --force-depends-version /mnt/quorumd.deb >/dev/null 2>&1 || die "second dpkg --install of quorumd"
inside systemctl --quiet is-active nines-quorumd || die "quorumd does not run when it is installed again"
inside dpkg --purge nines-quorumd >/dev/null 2>&1 || die "purge of quorumd"
inside test -e /var/lib/nines-quorumd && die "purge leaves quorumd's state"
echo "package of quorumd: install, join, restart, removal and purge hold; exposure $quorumd"

inside systemctl stop nines || die "stop"
inside systemctl start nines || die "start after stop"
want "the VIP again" "10.5.0.100" ip -brief addr show dev d0
inside dpkg --purge nines >/dev/null 2>&1 || die "purge"
for f in /var/lib/nines /usr/bin/nines /usr/lib/systemd/system/nines.service; do
  inside test -e "$f" && die "purge leaves $f"
done
inside bash -c 'ls -d /sys/fs/bpf/nines/*/v* 2>/dev/null' && die "purge leaves programs in the kernel"
inside ip -brief addr show dev d0 | grep -q 10.5.0.100 && die "purge leaves the VIP"
echo "package: install, init, start, apply, reload, upgrade, stop and purge hold; exposure $score"
"$here/boot.sh" stop "$dir"

boot readme
mkdir -p "$dir/share/target/release"; cp "$binary" "$dir/share/target/release/nines"; cp -r packaging "$dir/share/"
card
lines=$(awk '/^```/ { f = !f; next } f && /^install /' README.md)
[ -n "$lines" ] || die "the README has no install lines"
inside bash -euc "cd /mnt; $lines" || die "the README's install lines"
inside bash -euc 'nines init shop --address 10.5.0.2 --node lb1 >/dev/null && systemctl enable --now nines' || die "the README's first lines"
want "the README's cluster" "lb1" nines status
echo "README: its install lines end with a running unit"
