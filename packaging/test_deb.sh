#!/usr/bin/env bash
# Builds the Debian package from a binary that is there, and installs, upgrades, removes, purges and installs it again in
# a fresh Debian: with an empty environment and without a terminal, so that nothing can ask. No systemd runs in it; in that of
# test_runbook.sh one does.
# Usage: packaging/test_deb.sh target/debug/chatserver
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "$1")
target=$(dirname "$(dirname "$binary")")
subject='Debian package'
. packaging/testing.sh

path=/usr/sbin:/usr/bin:/sbin:/bin
inside() {
  "${as_root[@]}" env -i PATH=$path setsid --wait chroot "$root" "$@" </dev/null
}
# A command as the user of the service, with its settings.
chat() {
  "${as_root[@]}" env -i PATH=$path chroot --userspec=chatserver:chatserver "$root" \
    chatserver "$@" --config /etc/chatserver/chatserver.toml </dev/null
}
packages() {
  inside dpkg "$@" >"$log" 2>&1 || fail "dpkg $* fails"
}
modes() {
  inside stat -c '%a %U %G %n' /var/lib/chatserver /var/backups/chatserver /var/backups/chatserver-keys /etc/chatserver/chatserver.toml
}
as_installed='700 chatserver chatserver /var/lib/chatserver
700 chatserver chatserver /var/backups/chatserver
700 chatserver chatserver /var/backups/chatserver-keys
640 root chatserver /etc/chatserver/chatserver.toml'

debian "$root"
packages_of_two_versions
"${as_root[@]}" cp "$folder/old.deb" "$folder/next.deb" "$root/"

packages -i /old.deb
[ "$(modes)" = "$as_installed" ] || fail "installed: $(modes)"
expect 'the unit is enabled' "$(inside readlink /etc/systemd/system/multi-user.target.wants/chatserver.service)" \
  systemd/system/chatserver.service
[ -z "$(inside find /etc/systemd -name 'chatserver-backup*')" ] || fail 'the nightly backup is enabled'
expect 'the settings are valid' "$(chat check-config)" 'keep the data in sqlite:///var/lib/chatserver/chatserver.db'
expect 'Alice is added' "$(chat user add alice@example.com --nick Alice --json)" '"apikey"'
expect 'the database is private' "$(inside stat -c '%a %U' /var/lib/chatserver/chatserver.db)" '600 chatserver'

# The service itself, as the unit starts it.
start=$(inside sed -n 's/^ExecStart=//p' /usr/lib/systemd/system/chatserver.service)
http=$((10000 + RANDOM % 20000))
metrics=$((http + 1))
"${as_root[@]}" env -i PATH=$path CHATSERVER_HTTP__LISTEN=127.0.0.1:$http CHATSERVER_HTTP__METRICS_LISTEN=127.0.0.1:$metrics \
  chroot --userspec=chatserver:chatserver "$root" $start </dev/null 2>"$folder/server.log" &
running=($!)
asks() {
  "${as_root[@]}" env -i PATH=$path CHATSERVER_HTTP__METRICS_LISTEN=127.0.0.1:$metrics chroot "$root" \
    chatserver health --config /etc/chatserver/chatserver.toml
}
for _ in $(seq 100); do
  ! asks >/dev/null 2>&1 || break
  sleep 0.1
done
expect 'the service is ready' "$(asks 2>&1)" OK
"${as_root[@]}" kill "${running[@]}"
wait "${running[@]}" || fail "the service ends with $?: $(tail -n 3 "$folder/server.log")"
running=()

printf '[limits]\nfriends = 7\n' | "${as_root[@]}" tee -a "$root/etc/chatserver/chatserver.toml" >/dev/null
kept() {
  expect "$1: Alice" "$(chat user list)" alice@example.com
  [ "$(modes)" = "$as_installed" ] || fail "$1: $(modes)"
}
packages -i /next.deb
expect 'the version after the upgrade' "$(inside dpkg-query -W chatserver)" +next
expect 'edited settings after the upgrade' "$(chat check-config)" 'limits.friends = 7 (file'
kept 'after the upgrade'
# A downgrade between versions of one schema is an installation of the old package.
packages -i /old.deb
kept 'after the downgrade'

packages -r chatserver
[ -z "$(inside find /usr/bin/chatserver /usr/lib/systemd/system/chatserver.service 2>/dev/null)" ] || fail 'removed files are there'
packages -i /next.deb
expect 'edited settings after the return' "$(chat check-config)" 'limits.friends = 7 (file'
kept 'after the return'

packages --purge chatserver
expect 'a purge says what it keeps' "$(cat "$log")" 'the database in /var/lib/chatserver and the user chatserver are kept, and so are backups'
[ -z "$(inside find /etc/chatserver /etc/systemd/system/multi-user.target.wants/chatserver.service 2>/dev/null)" ] ||
  fail 'a purge leaves settings'
inside test -s /var/lib/chatserver/chatserver.db || fail 'a purge deletes the database'
packages -i /old.deb
kept 'after the purge'
echo 'Debian package: ok'
