#!/usr/bin/env bash
# Boots the Debian in a folder with its own systemd, in namespaces of its own: it has its own processes, mounts, network and
# control groups, and ends with this process. Writes the process id of that systemd into FOLDER.pid.
# Usage: packaging/boot_debian.sh FOLDER, as root
set -euo pipefail

# Inside the new namespaces.
boot() {
  local root=$1 pid device
  # /proc is still that of the machine outside, and so is this number.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$root.pid"
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  mount -t tmpfs tmpfs "$root/dev/shm"
  # A disk of its own, whose size a test can change.
  mount -t tmpfs -o mode=755 tmpfs "$root/mnt"
  cp -a "$root/var/." "$root/mnt/"
  mount --move "$root/mnt" "$root/var"
  # What needs the hardware, or has nothing to do here.
  for unit in dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    systemd-udevd.service getty.target apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  cd "$root"
  pivot_root . mnt
  umount -l /mnt
  exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
}

if [ "${2:-}" = boot ]; then
  boot "$1"
fi

# That systemd manages the control groups below its own.
group=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)$(sed -n 's/^0:://p' /proc/self/cgroup)/chatserver-test-$$
mkdir "$group"
(
  echo "$BASHPID" >"$group/cgroup.procs"
  exec unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child "$0" "$1" boot
) &
machine=$!
# It ignores SIGTERM. Its systemd is killed with it.
trap 'kill -KILL "$machine"' TERM INT
wait "$machine" || wait "$machine" || true
for _ in $(seq 50); do
  ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || break
  sleep 0.1
done
