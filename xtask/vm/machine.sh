# Parts of the scripts that boot a small VM; they are sourced, with set -euo pipefail.
# Decides: where Debian's kernel and its modules are kept, and how the machine starts. Nothing is installed.
work=$(mktemp -d "${TMPDIR:-/tmp}/nines-vm.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

# kernel MODULE...: sets `kept` to a folder with Debian's kernel and these modules; downloads them once.
kernel() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/nines-vm image m
  mkdir -p "$cache"
  image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/ {print $2; exit}')
  [ -n "$image" ] || { echo "no linux-image-amd64 in apt's lists: apt-get update" >&2; exit 1; }
  kept=$cache/$image.$(echo "$*" | cksum | cut -d' ' -f1)
  [ ! -d "$kept" ] || return 0
  (cd "$work" && apt-get download -qq "$image" && dpkg -x linux-image-*.deb tree)
  mkdir -p "$kept.new/modules"
  cp "$work"/tree/boot/vmlinuz-* "$kept.new/vmlinuz"
  for m in "$@"; do find "$work/tree" -name "$m.ko*" -exec cp {} "$kept.new/modules/" \;; done
  mv "$kept.new" "$kept"
}

# put PROGRAM NAME: into the machine's /bin, with its libraries.
put() {
  cp -L "$1" "$root/bin/$2"
  ldd "$1" | grep -oE '/[^ ]+' | while read -r l; do
    mkdir -p "$root$(dirname "$l")"; cp -L "$l" "$root$l"; done
}

# system APPLET...: makes the machine's folders, with busybox under these names, ip and the kernel's modules.
system() {
  local a
  mkdir -p "$root"/{bin,proc,sys,dev,tmp,run}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for a in sh mount insmod poweroff cat "$@"; do ln -s busybox "$root/bin/$a"; done
  put "$(command -v ip || echo /sbin/ip)" ip
  cp "$kept"/modules/* "$root/"
}

# boot SECONDS APPEND QEMU_OPTION...: runs $root/init; what it prints is also in $work/out. A reset ends the machine.
boot() {
  local seconds=$1 append=$2; shift 2
  chmod +x "$root/init"
  (cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd"
  timeout "${NINES_VM_SECONDS:-$seconds}" qemu-system-x86_64 "$@" -cpu max -m 1024 -display none -no-reboot \
    -kernel "$kept/vmlinuz" -initrd "$work/initrd" -serial stdio \
    -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr audit=0 lsm= cryptomgr.notests=1 $append" \
    </dev/null | stdbuf -oL tr -d '\r' | tee "$work/out"
}
