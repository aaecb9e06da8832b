# Sourced by the tests of this folder. The test sets `subject`, how its messages begin.
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
folder=$(mktemp -d)
root=$folder/root
# Shown with a failure.
log=$folder/log
# Processes that end with the test.
running=()

cleanup() {
  [ "${#running[@]}" -eq 0 ] || "${as_root[@]}" kill "${running[@]}" 2>/dev/null || true
  wait
  "${as_root[@]}" rm -rf "$folder"
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
    "${as_root[@]}" debootstrap --variant=minbase --include=ca-certificates,systemd "$VERSION_CODENAME" "$made" "$mirror" >"$log" ||
      fail 'no Debian can be made'
    "${as_root[@]}" tar -C "$made" --exclude=./dev/* --exclude=./var/cache/apt/*.bin --exclude=./var/cache/apt/archives/*.deb \
      -cf "$folder/base.tar" .
    mv "$folder/base.tar" "$base"
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
