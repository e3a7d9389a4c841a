# SPDX-License-Identifier: Apache-2.0
# Sourced by tools/arm64 and tools/camera-stack, after tools/lib/setup.sh: an arm64 Debian 13 without hardware.
#   run_in_root  one command on the processor emulation of qemu-user, in a throw-away copy of the system
#   boot         the same system with its own kernel under qemu-system, without network; nothing of it is kept
# All of it lies in CACHE, outside the checkout, and is made again only when its lists of packages change.
# shellcheck shell=bash

CACHE=${POSTERN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/postern}
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
ROOTFS="$CACHE/root"                    # the system's files
NATIVE="$CACHE/native"                  # those of the x86-64 system
QEMU_USER="$CACHE/qemu-user/usr/bin/qemu-aarch64"
# shellcheck disable=SC2154 # root is set by the caller
EMULATED="$root/tools/lib/arm64"
BINFMT=/proc/sys/fs/binfmt_misc
LIBRARIES=/usr/lib/postern/vendor       # of the Debian package: what ships is what runs
# Hooks of mmdebstrap, which gives them the system's folder as $1: libcamera of the backports; what is slow when emulated
# and not needed, put aside while packages are installed.
# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
PIN_HOOK='mkdir -p "$1/etc/apt/preferences.d"
printf "Package: src:libcamera\nPin: release n=trixie-backports\nPin-Priority: 990\n" >"$1/etc/apt/preferences.d/libcamera"'
# shellcheck disable=SC2016
ASIDE_HOOK='for slow in /usr/bin/py3compile /usr/sbin/update-initramfs; do
  dpkg-divert --root="$1" --local --rename --divert "$slow.aside" --add "$slow"
  ln -s /bin/true "$1$slow"
done'
# shellcheck disable=SC2016
RESTORE_HOOK='rm "$1/usr/bin/py3compile" && dpkg-divert --root="$1" --local --rename --remove /usr/bin/py3compile'
BOOT_LIMIT=${BOOT_LIMIT:-2400}          # seconds until a system that hangs is given up

say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$1"; }

# begin ARGUMENT...: what both scripts need first. ARGUMENT is their command line, with which they start again in a mount
# namespace of their own: what is mounted there is gone when the script ends, however it ends.
begin() {
  local pair missing=()
  [ "$(uname -m)" = x86_64 ] || fail "this runs on x86-64 alone; here, run tools/test, tools/test tests/device and tools/bench themselves"
  [ "$(id -u)" -eq 0 ] || fail "needs root, for binfmt_misc and chroot: sudo $0"
  PATH="$PATH:/usr/sbin:/sbin"
  [ -f "$KEYS" ] || missing+=(debian-archive-keyring)
  for pair in mmdebstrap=mmdebstrap qemu-system-aarch64=qemu-system-arm mke2fs=e2fsprogs depmod=kmod cpio=cpio \
    xz=xz-utils gcc=gcc patch=patch git=git dpkg-deb=dpkg; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
  done
  if [ ${#missing[@]} -gt 0 ]; then fail "missing; on Debian: apt-get install --no-install-recommends ${missing[*]}"; fi
  if [ -z "${POSTERN_UNSHARED:-}" ]; then POSTERN_UNSHARED=1 exec unshare --mount "$0" "$@"; fi
  mkdir -p "$CACHE"
  # Two runs would take each other's registration and system away.
  exec 9>"$CACHE/lock"
  flock --nonblock 9 || fail "another run uses $CACHE; wait for it, or set POSTERN_CACHE to another folder"
  say "systems are kept in $CACHE (up to 5 GB); delete it to start over"
}

# prepare: emulator, system and package, as far as they are not there yet.
prepare() {
  fetch_emulator
  register
  make_root
}

# Debian 13's emulator: LiteRT 2.3 ends with a segmentation fault under the one of Debian 12.
fetch_emulator() { [ -x "$QEMU_USER" ] || fetch_native qemu-user qemu-user; }

# fetch_native FOLDER PACKAGE...: packages of Debian 13 for this machine's processor, unpacked in CACHE/FOLDER.
fetch_native() (
  folder=$1
  shift
  say "fetching $* of Debian 13"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/etc/apt.conf.d" "$work/etc/preferences.d" "$work/unpacked"
  echo "deb [signed-by=$KEYS] $MIRROR trixie main" >"$work/etc/sources.list"
  touch "$work/status"
  cat >"$work/apt.conf" <<CONF
Dir::State "$work";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Etc "$work/etc";
APT::Architecture "amd64";
APT::Sandbox::User "root";
CONF
  cd "$work" || exit
  export APT_CONFIG="$work/apt.conf"
  { apt-get -qq update && apt-get -qq download "$@"; } || fail "$* of Debian 13 cannot be fetched from $MIRROR"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked"; done
  mv "$work/unpacked" "$CACHE/$folder"
)

# Let the kernel start aarch64 programs with that emulator, also inside a chroot (F), until this script ends.
register() {
  local entry
  if [ ! -e "$BINFMT/register" ]; then
    mount -t binfmt_misc none "$BINFMT" || fail "this kernel has no binfmt_misc, which starts programs of other processors"
  fi
  unregister
  trap unregister EXIT
  entry=$(sed -e 's/:qemu-aarch64:/:postern-aarch64:/' -e "s#:[^:]*:[A-Z]*\$#:$QEMU_USER:OCF#" \
    "$CACHE/qemu-user/usr/share/qemu/binfmt.d/qemu-aarch64.conf")
  [ ${#entry} -lt 255 ] || fail "$CACHE is too long a name for binfmt_misc: set POSTERN_CACHE to a shorter one"
  printf '%s' "$entry" >"$BINFMT/register"
}

unregister() { if [ -e "$BINFMT/postern-aarch64" ]; then echo -1 >"$BINFMT/postern-aarch64"; fi; }

make_root() {
  local wanted packages log="$CACHE/root.log"
  wanted=$( (
    cat "$EMULATED"/debian.txt "$EMULATED"/picamera2* "$EMULATED"/guest.*
    declare -f make_root make_initrd add_picamera2
    echo "$PIN_HOOK$ASIDE_HOOK$RESTORE_HOOK"
  ) | sha256sum)
  if [ "$(cat "$CACHE/root.stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  say "making the arm64 system, which takes 10 to 30 minutes; its log is $log"
  rm -rf "$CACHE/root.stamp" "$ROOTFS" "$CACHE/disk.img" "$CACHE/initrd"
  packages=$(grep -v '^#' "$EMULATED/debian.txt" | paste -sd,)
  # This machine's apt, the system's own dpkg: another processor's would not see that packages of all architectures
  # (Architecture: all) have what they depend on.
  mmdebstrap --arch=arm64 --mode=root --variant=essential --format=directory --skip=check/qemu \
    --dpkgopt=force-unsafe-io --include="$packages" --setup-hook="$PIN_HOOK" --essential-hook="$ASIDE_HOOK" \
    --customize-hook="$RESTORE_HOOK" \
    trixie "$ROOTFS" "deb $MIRROR trixie main" "deb $MIRROR trixie-backports main" >"$log" 2>&1 ||
    fail "the arm64 system cannot be made: $(grep '^E:' "$log" | tail -n 1); see $log"
  add_picamera2 "$ROOTFS" aarch64
  make_initrd
  install -m 644 "$EMULATED/guest.service" "$ROOTFS/etc/systemd/system/postern-guest.service"
  mkdir -p "$ROOTFS/etc/systemd/system/multi-user.target.wants"
  ln -sf ../postern-guest.service "$ROOTFS/etc/systemd/system/multi-user.target.wants/"
  ln -sf /dev/null "$ROOTFS/etc/systemd/system/mosquitto.service" # tests start their own
  echo postern >"$ROOTFS/etc/hostname"
  printf '%s\n' "$wanted" >"$CACHE/root.stamp"
}

# Debian's own initial RAM disk is made and run slowly under emulation; this one loads the modules that reach the disk.
make_initrd() {
  local tree kernel module
  tree=$(mktemp -d)
  kernel=$(basename "$ROOTFS"/usr/lib/modules/*)
  mkdir -p "$tree/bin" "$tree/dev" "$tree/modules" "$tree/proc" "$tree/root"
  cp "$ROOTFS/usr/bin/busybox" "$tree/bin/busybox"
  install -m 755 "$EMULATED/guest.init" "$tree/init"
  depmod --basedir "$ROOTFS/usr" "$kernel" 2>/dev/null || depmod --basedir "$ROOTFS" "$kernel"
  for module in virtio_pci virtio_blk virtio_console ext4; do
    modprobe --dirname "$ROOTFS" --set-version "$kernel" --show-depends "$module"
  done | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' >"$tree/modules/order"
  while read -r module; do
    case $module in
      *.xz) xz --decompress --stdout "$module" >"$tree/modules/$(basename "$module" .xz)" ;;
      *) cp "$module" "$tree/modules/" ;;
    esac
  done <"$tree/modules/order"
  sed -i -e 's#.*/##' -e 's/\.xz$//' "$tree/modules/order"
  (cd "$tree" && find . -print0 | cpio --quiet --null --create --format=newc | gzip) >"$CACHE/initrd"
  rm -rf "$tree"
}

# picamera2 is in no Debian archive: its wheel, what it imports, and the patch for a virtual camera.
add_picamera2() { # add_picamera2 SYSTEM aarch64|x86_64
  local target="$1/usr/local/lib/python3.13/dist-packages" platforms=() tag
  for tag in manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${tag}_$2"); done
  "$BIN/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.13 \
    "${platforms[@]}" --target "$target" --requirement "$EMULATED/picamera2.txt"
  cp -r "$EMULATED"/standins/* "$target/"
  patch --quiet --directory "$target" -p1 <"$EMULATED/picamera2-virtual.patch"
}

# make_native_root: an x86-64 Debian 13 with picamera2, for its own processor; only libcamera's camera is virtual.
make_native_root() {
  local wanted packages log="$CACHE/native.log"
  wanted=$(cat "$EMULATED"/debian-native.txt "$EMULATED"/picamera2* "$EMULATED/udmabuf.c" | sha256sum)
  if [ "$(cat "$CACHE/native.stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  say "making the x86-64 system, which takes some minutes; its log is $log"
  rm -rf "$CACHE/native.stamp" "$NATIVE"
  packages=$(grep -v '^#' "$EMULATED/debian-native.txt" | paste -sd,)
  mmdebstrap --mode=root --variant=minbase --format=directory --include="$packages" \
    --setup-hook="$PIN_HOOK" \
    trixie "$NATIVE" "deb $MIRROR trixie main" "deb $MIRROR trixie-backports main" >"$log" 2>&1 ||
    fail "the x86-64 system cannot be made: $(grep '^E:' "$log" | tail -n 1); see $log"
  add_picamera2 "$NATIVE" x86_64
  gcc -shared -fPIC -O1 -o "$NATIVE/usr/lib/udmabuf.so" "$EMULATED/udmabuf.c"
  mkdir -p "$NATIVE/usr/share/libcamera/pipeline/virtual" "$NATIVE/run/outside"
  printf '%s\n' "$wanted" >"$CACHE/native.stamp"
}

# checkout FOLDER: the working tree without what git ignores.
checkout() {
  mkdir -p "$1"
  git -C "$root" -c safe.directory="$root" ls-files -z --cached --others --exclude-standard |
    (cd "$root" && tar --create --null --files-from=- --ignore-failed-read 2>/dev/null) | tar --extract --directory "$1"
}

# package: builds the arm64 Debian package of this working tree; sets PACKAGE.
package() {
  say "building the arm64 package"
  rm -rf "$CACHE/package"
  "$root/deploy/debian/build" arm64 "$CACHE/package"
  PACKAGE=$(echo "$CACHE"/package/postern_*_arm64.deb)
}

# open_root: a throw-away copy of the system with checkout and package in it, in a mount namespace that ends with this
# script; needs `package`. Sets COPY.
open_root() {
  COPY="$CACHE/copy"
  rm -rf "$CACHE/overlay"
  mkdir -p "$CACHE/overlay/upper" "$CACHE/overlay/work" "$COPY"
  mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$CACHE/overlay/upper,workdir=$CACHE/overlay/work" "$COPY"
  mount -t proc proc "$COPY/proc"
  mount -t sysfs sys "$COPY/sys" # without it LiteRT does not learn its processor and leaves XNNPACK out
  mount --rbind /dev "$COPY/dev"
  dpkg-deb -x "$PACKAGE" "$COPY"
  checkout "$COPY/checkout"
}

# run_in_root PROCESSOR COMMAND...: in the copy, in the checkout's folder.
run_in_root() {
  local cpu=$1
  shift
  # shellcheck disable=SC2016 # the inner shell's variables
  chroot "$COPY" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin QEMU_CPU="$cpu" CI=1 POSTERN_SLOWNESS=6 PYTHONUNBUFFERED=1 \
    PYTHONPYCACHEPREFIX=/var/cache/python PYTHONPATH="$LIBRARIES/cp313:$LIBRARIES/py3" \
    sh -c 'cd /checkout && exec "$@"' sh "$@"
}

# boot system|direct FOLDER REPORT QEMU-OPTIONS...: starts the system, or of it the kernel alone; it runs FOLDER/guest and
# powers off. What that printed is in REPORT, the kernel's console beside it. Returns the status of FOLDER/guest.
boot() {
  local how=$1 folder=$2 report=$3 status
  shift 3
  if [ ! -f "$CACHE/disk.img" ]; then
    say "making the system's disk"
    mke2fs -q -F -t ext4 -d "$ROOTFS" "$CACHE/disk.partial" "$(($(du -sm "$ROOTFS" | cut -f1) + 1536))M"
    mv "$CACHE/disk.partial" "$CACHE/disk.img"
  fi
  rm -f "$CACHE/guest.img"
  mke2fs -q -F -t ext4 -L postern -d "$folder" "$CACHE/guest.img" "$(($(du -sm "$folder" | cut -f1) + 64))M"
  say "booting it; the console is $report.console"
  : >"$report"
  tail --pid=$$ -n +1 -f "$report" &
  # The root disk comes first, or it is not vda; rom files are in another Debian package and not needed.
  timeout "$BOOT_LIMIT" qemu-system-aarch64 -machine virt -m 1536 -display none -nic none -no-reboot -snapshot \
    -serial "file:$report.console" -kernel "$ROOTFS"/boot/vmlinuz-* -initrd "$CACHE/initrd" \
    -append "root=/dev/vda rw console=ttyAMA0 panic=3 $how" \
    -drive "if=none,id=root,format=raw,file=$CACHE/disk.img" -device virtio-blk-pci,drive=root,romfile= \
    -drive "if=none,id=guest,format=raw,file=$CACHE/guest.img" -device virtio-blk-pci,drive=guest,romfile= \
    -device virtio-rng-pci,romfile= -device virtio-serial-pci,romfile= \
    -chardev "file,id=report,path=$report" -device virtserialport,chardev=report,name=report "$@" ||
    say "the emulator ended with status $?"
  sleep 1
  kill $! 2>/dev/null || true
  status=$(sed -n 's/^guest ended with status \([0-9]*\)$/\1/p' "$report" | tail -n 1)
  [ -n "$status" ] || fail "the emulated system did not get to its end; see $report.console"
  return "$status"
}
