#!/usr/bin/env bash
# Tries the root folder of packaging/Containerfile's image as a chroot: with its user, its variables, a root that is read-only
# but for the folder of the database, and nothing of this machine but /proc. A binary that is not static gets its libraries.
# Usage: packaging/test_image.sh target/debug/chatserver
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")"
subject='container image'
. ./testing.sh

"${as_root[@]}" ./image_root.sh "$binary" "$root"
if ldd "$binary" >"$folder/libraries" 2>/dev/null; then
  while read -r library; do
    "${as_root[@]}" install -D "$library" "$root$library"
  done < <(grep -o '/[^ ]*' "$folder/libraries")
fi
"${as_root[@]}" mkdir "$root/proc"

user=$(sed -n 's/^USER //p' Containerfile)
mapfile -t variables < <(sed -n 's/^ENV //p' Containerfile)
[ -n "$user" ] && [ "${#variables[@]}" -eq 2 ] || fail 'the user and two variables of the Containerfile are not found'
# Other ports than those of the image, because the chroot shares the network of the machine.
http=$((10000 + RANDOM % 20000))
variables+=("CHATSERVER_HTTP__LISTEN=127.0.0.1:$http" "CHATSERVER_HTTP__METRICS_LISTEN=127.0.0.1:$((http + 1))")
runs() {
  # shellcheck disable=SC2016 # The inner shell expands these.
  exec "${as_root[@]}" unshare --mount sh -euc '
    root=$1 user=$2
    shift 2
    mount --bind "$root" "$root"
    mount --bind "$root/var/lib/chatserver" "$root/var/lib/chatserver"
    mount -o remount,ro,bind "$root"
    mount -t proc proc "$root/proc"
    cd "$root"
    exec env -i "$@"' sh "$root" "$user" "${variables[@]}" \
    /usr/sbin/chroot --userspec="$user" "$root" /usr/bin/chatserver "$@"
}

runs serve 2>"$log" &
running=($!)
for _ in $(seq 100); do
  ! (runs health) >/dev/null 2>&1 || break
  sleep 0.1
done
[ "$( (runs health) 2>&1)" = OK ] || fail "the health check answers $( (runs health) 2>&1)"
added=$(runs user add alice@example.com --nick Alice)
[[ $added == *apikey* ]] || fail 'no user can be added'
[ "$("${as_root[@]}" stat -c '%a %u' "$root/var/lib/chatserver/chatserver.db")" = '600 10001' ] || fail 'the database is not private'
"${as_root[@]}" kill "${running[@]}"
wait "${running[@]}" || fail "the server ends with $?"
running=()
! (runs health) >/dev/null 2>&1 || fail 'a stopped server is healthy'
echo 'container image: ok'
