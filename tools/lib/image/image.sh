# SPDX-License-Identifier: Apache-2.0
# Sourced by tools/image, after tools/lib/setup.sh and tools/lib/arm64/arm64.sh: makes the image of a card.
# shellcheck shell=bash

# Numbers that a maker of file systems would draw by lot: two builds are the same bytes, and a card is found by its labels.
DISK_ID=0x706f7374
FAT_ID=706f7301
ROOT_ID=706f7374-0000-4000-8000-000000000002
DATA_ID=706f7374-0000-4000-8000-000000000003
BOOT_MIB=512       # two kernels with their initial RAM disks
SPARE_MIB=768      # of the root, for upgrades
DATA_MIB=128       # grown to the card's end at the first start
START_MIB=4        # what cards erase at once
# shellcheck disable=SC2154 # root is set by the caller
IMAGE_LIB="$root/tools/lib/image"

# Hook of mmdebstrap: packages are unpacked by this machine's dpkg-deb, which decompresses ten times as fast as an emulated
# one; what modules the kernel has is listed by its depmod, once.
# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
NATIVE_HOOK='mkdir "$1/native" && cp --dereference $(ldd /usr/bin/dpkg-deb | grep -o "/[^ ]*") /usr/bin/dpkg-deb "$1/native/"
mv "$1/usr/bin/dpkg-deb" "$1/usr/bin/dpkg-deb.aside"
printf "#!/bin/sh\nexec /native/ld-linux-x86-64.so.2 --library-path /native /native/dpkg-deb \"\$@\"\n" >"$1/usr/bin/dpkg-deb"
chmod 755 "$1/usr/bin/dpkg-deb"
dpkg-divert --root="$1" --local --rename --divert /usr/sbin/depmod.aside --add /usr/sbin/depmod
ln -s /bin/true "$1/usr/sbin/depmod"'

# Python files are compiled by Debian 13's own Python, for this processor: what it writes is the same for each.
PYTHON_OF_13=(python3.13-minimal libpython3.13-minimal libpython3.13-stdlib libc6 libexpat1 zlib1g)
compile_python() { # compile_python SYSTEM
  local there="$CACHE/python-13"
  [ -d "$there" ] || fetch_native python-13 "${PYTHON_OF_13[@]}"
  PYTHONHOME="$there/usr" "$there/usr/lib64/ld-linux-x86-64.so.2" --library-path "$there/usr/lib/x86_64-linux-gnu" \
    "$there/usr/bin/python3.13" -m compileall -q -f -s "$1" -p / "$1/usr/lib/python3" "$1/usr/lib/python3.13" "$1/usr/lib/postern"
}

# make_image FOLDER: FOLDER/postern-VERSION-arm64.img from this working tree; sets IMAGE.
make_image() {
  local out=$1 system="$CACHE/memory/root" log="$CACHE/image.log" packages version
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/agent/__init__.py")
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" -c safe.directory="$root" log -1 --format=%ct)}
  export SOURCE_DATE_EPOCH PACKAGE ROOT=$root
  say "making the system, which takes 10 to 30 minutes; its log is $log"
  # In memory: what dpkg has written to a disk after each file takes longer than all else.
  mkdir -p "$CACHE/memory"
  mount -t tmpfs -o size=4g tmpfs "$CACHE/memory"
  packages=$(grep -v '^#' "$IMAGE_LIB/debian.txt" | paste -sd,)
  # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
  mmdebstrap --arch=arm64 --mode=root --variant=essential --format=directory --skip=check/qemu --dpkgopt=force-unsafe-io \
    --include="$packages" --setup-hook='mkdir -p "$1/boot/firmware"' --essential-hook="$ASIDE_HOOK" \
    --essential-hook="$NATIVE_HOOK" --customize-hook="$IMAGE_LIB/customize" \
    trixie "$system" "deb $MIRROR trixie main non-free-firmware" "deb $MIRROR trixie-updates main non-free-firmware" \
    "deb $MIRROR-security trixie-security main non-free-firmware" >"$log" 2>&1 ||
    fail "the system cannot be made: $(grep -E '^(E|dpkg):' "$log" | tail -n 1); see $log"
  mkdir -p "$out"
  IMAGE="$out/postern-$version-arm64.img"
  finish "$system"
  assemble "$system" "$IMAGE"
  umount "$CACHE/memory"
}

# finish SYSTEM: nothing that two units would share, nothing of this machine, and one date on all that is newer.
finish() {
  local system=$1
  echo postern >"$system/etc/hostname"
  printf '127.0.0.1 localhost postern\n::1 localhost\n' >"$system/etc/hosts"
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$system/etc/resolv.conf"
  # Empty, not "uninitialized": that would have the first start enable every service there is.
  : >"$system/etc/machine-id"
  find "$system/var/log" -type f -delete
  rm -rf "$system"/etc/ssh/ssh_host_* "$system"/var/lib/systemd/random-seed "$system"/var/lib/dbus/machine-id "$system"/tmp/* \
    "$system"/var/cache/ldconfig "$system"/var/cache/apt/*.bin "$system"/usr/lib/dpkg-status/*-old "$system"/etc/*- \
    "$system"/var/lib/apt/lists/* "$system"/var/cache/debconf/*-old
  # Times first: compiled files name those of their sources.
  clamp "$system"
  compile_python "$system"
  clamp "$system"
}

clamp() { # clamp SYSTEM
  find "$1" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# assemble SYSTEM IMAGE: one FAT partition for firmware, kernel and the installer's files, one for the root, one for data.
assemble() {
  local system=$1 image=$2 work root_mib
  work=$(mktemp -d "$CACHE/assemble.XXXXXX")
  say "making the card's image"
  # shellcheck disable=SC2031
  export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH MTOOLS_SKIP_CHECK=1
  mkdir "$work/boot" "$work/data"
  cp --recursive --preserve=timestamps "$system/boot/firmware/." "$work/boot/"
  find "$system/boot/firmware" -mindepth 1 -delete
  touch --date="@$SOURCE_DATE_EPOCH" "$system/boot/firmware" "$work/data"
  mkfs.vfat --invariant -i "$FAT_ID" -n POSTERN -F 32 -C "$work/boot.img" $((BOOT_MIB * 1024)) >/dev/null
  (cd "$work/boot" && find . -mindepth 1 -maxdepth 1 -print0 | sort -z |
    TZ=UTC xargs -0 -I{} mcopy -i "$work/boot.img" -s -m {} ::)
  root_mib=$(($(du -sm "$system" | cut -f1) * 21 / 20 + SPARE_MIB))
  file_system "$work/root.img" postern-root "$ROOT_ID" "$root_mib" "$system"
  file_system "$work/data.img" postern-data "$DATA_ID" "$DATA_MIB" "$work/data"
  rm -f "$image"
  truncate --size=$((START_MIB + BOOT_MIB + root_mib + DATA_MIB))M "$image"
  sfdisk --quiet "$image" <<TABLE
label: dos
label-id: $DISK_ID
start=${START_MIB}MiB, size=${BOOT_MIB}MiB, type=c, bootable
start=$((START_MIB + BOOT_MIB))MiB, size=${root_mib}MiB, type=83
start=$((START_MIB + BOOT_MIB + root_mib))MiB, size=${DATA_MIB}MiB, type=83
TABLE
  write_at() { dd if="$1" of="$image" bs=1M seek="$2" conv=notrunc,sparse status=none; }
  write_at "$work/boot.img" "$START_MIB"
  write_at "$work/root.img" $((START_MIB + BOOT_MIB))
  write_at "$work/data.img" $((START_MIB + BOOT_MIB + root_mib))
  rm -rf "$work"
}

file_system() { # file_system FILE LABEL UUID MIB FOLDER
  mke2fs -q -F -t ext4 -T default -b 4096 -m 1 -L "$2" -U "$3" -E "hash_seed=$3,lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
    -d "$5" "$1" "$4M"
}

need_tools() {
  local pair missing=()
  for pair in mkfs.vfat=dosfstools mcopy=mtools sfdisk=fdisk; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
  done
  if [ ${#missing[@]} -gt 0 ]; then fail "missing; on Debian: apt-get install --no-install-recommends ${missing[*]}"; fi
  fetch_emulator
  register
  mkdir -p "$root/out"
  if [ -z "${POSTERN_IMAGE:-}" ]; then package; fi
}

compare_with_another() { # compare_with_another IMAGE
  local first=$1
  make_image "$CACHE/image"
  cmp "$first" "$IMAGE" || fail "another build gave other bytes: compare $first with $IMAGE"
  rm "$IMAGE"
  IMAGE=$first
  say "built twice, the same bytes"
}

pack() { # pack IMAGE: FILE.xz and SHA256SUMS instead of it, signed where POSTERN_KEY names a key of gpg
  say "packing it"
  xz --force --threads=2 -6 "$1"
  (cd "$(dirname "$1")" && sha256sum "$(basename "$1").xz" | tee SHA256SUMS)
  if [ -n "${POSTERN_KEY:-}" ]; then
    gpg --batch --yes --local-user "$POSTERN_KEY" --armor --detach-sign "$(dirname "$1")/SHA256SUMS"
  fi
  stat --format='%n: %s bytes' "$1.xz"
}
