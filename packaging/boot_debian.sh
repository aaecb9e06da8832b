#!/usr/bin/env bash
# Boots the Debian in a folder with its own systemd, in its own namespaces of processes, mounts, network and control groups.
# Writes the process id of that systemd into FOLDER.pid once its root is the folder. Everything ends with this process or with
# process OWNER, whichever is first, even on SIGKILL.
# Usage: packaging/boot_debian.sh FOLDER OWNER, as root
#        packaging/boot_debian.sh --check, as root: says what this machine lacks, and boots nothing
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

namespaces=(--mount --pid --net --ipc --uts --cgroup --fork --kill-child)

fail() {
  printf 'boot_debian.sh: %s\n' "$*" >&2
  exit 1
}

# Sets `parent` to the folder of this process's control group.
find_parent() {
  local hierarchy own
  # The exit code for none differs between versions of findmnt.
  hierarchy=$(findmnt -n -o TARGET -t cgroup2 | head -n 1) || true
  [ -n "$hierarchy" ] ||
    fail 'no cgroup2 file system is mounted. Mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup'
  own=$(sed -n 's/^0:://p' /proc/self/cgroup)
  parent=$hierarchy$own
  [ -n "$own" ] && [ -d "$parent" ] || fail "the control group '$own' of this process is not in $hierarchy"
}

check() {
  local program kind
  local right='Run it as root outside of a container, or in a privileged one (CAP_SYS_ADMIN)'
  [ "$(id -u)" -eq 0 ] || fail 'must run as root'
  for program in findmnt nsenter pivot_root setpriv unshare; do
    command -v "$program" >/dev/null || fail "the program $program is missing. Debian has it in the packages util-linux and mount"
  done
  find_parent
  mkdir "$parent/chatserver-test-$$" || fail "no control group can be made in $parent. $right"
  rmdir "$parent/chatserver-test-$$"
  unshare "${namespaces[@]}" true || fail "no namespaces can be made. $right"
  for kind in proc sysfs cgroup2 tmpfs devpts; do
    unshare "${namespaces[@]}" mount -t "$kind" "$kind" /mnt || fail "no file system of type $kind can be mounted. $right"
  done
}

# Runs in the new namespaces.
boot() {
  local root=$1 pid pid_file device
  # /proc is still that of the machine outside, and so is this number. The file stays empty while the root is the old one:
  # commands of a test that entered now would change the machine outside.
  read -r pid _ </proc/self/stat
  exec {pid_file}>"$root.pid"
  # `inside` of machines.sh enters no root without it.
  : >"$root/etc/chatserver-test-machine"
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
  # Masks units that need hardware, a terminal or the network.
  for unit in dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    systemd-udevd.service getty.target apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  cd "$root"
  pivot_root . mnt
  umount -l /mnt
  echo "$pid" >&"$pid_file"
  exec {pid_file}>&-
  exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no
}

# Removes the machine's control groups, which are empty soon after its processes are killed.
remove_groups() {
  for _ in $(seq 50); do
    [ -d "$group" ] || return 0
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
  done
  [ ! -d "$group" ] || fail "the control group $group can't be removed"
}

# Ends this script with its owner, and removes the control groups even if this script was killed.
watch() {
  trap '' HUP INT TERM
  while kill -0 "$owner" && kill -0 $$; do
    sleep 0.2
  done 2>/dev/null
  kill $$ 2>/dev/null || true
  remove_groups
}

end() {
  trap '' HUP INT TERM
  # unshare ignores SIGTERM. Its systemd is killed with it, and all processes of the machine with that.
  [ -z "${!:-}" ] || kill -KILL $! 2>/dev/null || true
  wait $! 2>/dev/null || true
  remove_groups
}

case $1 in
--check)
  check
  exit
  ;;
--inside) boot "$2" ;;
esac

owner=$2
find_parent
group=$parent/chatserver-test-$$
trap end EXIT
trap 'exit 1' HUP INT TERM
mkdir "$group"
watch &
# The machine's systemd manages the control groups below its own.
(
  echo "$BASHPID" >"$group/cgroup.procs"
  exec setpriv --pdeathsig KILL unshare "${namespaces[@]}" "$0" --inside "$1"
) &
wait $!
