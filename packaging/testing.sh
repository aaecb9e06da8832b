# Sourced by the tests of this folder. The test sets `subject`, how its messages begin.
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
folder=$(mktemp -d)
root=$folder/root
# Shown with a failure.
log=$folder/log
# Processes that end with the test.
running=()
# The base of `debian` while it is made.
unfinished=

# Bash runs this after SIGHUP, SIGINT and SIGTERM as well, also in a child that one of them reaches before its exec.
cleanup() {
  [ "$BASHPID" -eq $$ ] || return 0
  local pid deadline=$((SECONDS + 10))
  trap '' HUP INT TERM
  [ "${#running[@]}" -eq 0 ] || "${as_root[@]}" kill "${running[@]}" 2>/dev/null || true
  for pid in "${running[@]}"; do
    while "${as_root[@]}" kill -0 "$pid" 2>/dev/null; do
      if [ "$SECONDS" -ge "$deadline" ]; then
        "${as_root[@]}" kill -KILL "$pid" 2>/dev/null || true
        break
      fi
      sleep 0.1
    done
  done
  "${as_root[@]}" rm -rf --one-file-system "$folder" ${unfinished:+"$unfinished"}
}
trap cleanup EXIT

fail() {
  printf '%s: %s\n' "$subject" "$*" >&2
  tail -n 20 "$log" >&2 || true
  exit 1
}

expect() {
  case $2 in
  *"$3"*) ;;
  *) fail "$1: expected $3, got ${2:0:600}" ;;
  esac
}

# Makes a folder with a fresh Debian, of the distribution of this machine, because the binary needs its libc.
debian() {
  . /etc/os-release
  local base=$target/debian-$VERSION_CODENAME.tar made mirror
  if [ ! -f "$base" ]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
      awk -v codename="$VERSION_CODENAME" '$2 == codename { print $1; exit }')
    made=$folder/debootstrap
    # In namespaces, so that nothing of it outlives an interrupted test: neither a process nor a mount.
    "${as_root[@]}" setpriv --pdeathsig KILL unshare --mount --pid --mount-proc --fork --kill-child \
      debootstrap --variant=minbase --include=ca-certificates,systemd "$VERSION_CODENAME" "$made" "$mirror" >"$log" &
    running+=($!)
    wait $! || fail 'no Debian can be made'
    unset 'running[-1]'
    # Beside its target, because a move to another file system is a copy, and an interrupted copy would be taken for the base.
    unfinished=$(mktemp "$base.XXXXXX")
    "${as_root[@]}" tar -C "$made" --exclude=./dev/* --exclude=./var/cache/apt/*.bin --exclude=./var/cache/apt/archives/*.deb \
      -cf "$unfinished" .
    mv "$unfinished" "$base"
    unfinished=
    "${as_root[@]}" rm -rf "$made"
  fi
  "${as_root[@]}" mkdir "$1"
  "${as_root[@]}" tar -C "$1" -xf "$base"
}

# Builds old.deb from the binary that is there, and next.deb, the next version, which also has other default settings.
packages_of_two_versions() {
  local version
  CARGO_TARGET_DIR=$target cargo deb --quiet --locked --no-build --profile dev --strip --fast --output "$folder/old.deb" >/dev/null
  dpkg-deb --raw-extract "$folder/old.deb" "$folder/next"
  version=$(sed -n 's/^Version: //p' "$folder/next/DEBIAN/control")
  sed -i "s/^Version: .*/Version: $version+next/" "$folder/next/DEBIAN/control"
  printf '\n# Of the next version.\n' >>"$folder/next/usr/share/chatserver/chatserver.toml"
  dpkg-deb --root-owner-group -Znone --build "$folder/next" "$folder/next.deb" >/dev/null
}
