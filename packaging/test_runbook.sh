#!/usr/bin/env bash
# Runs every command of the runbook in docs/operating.md, as it stands there and in its order, on machines that have nothing
# but Debian, systemd and the package, and looks whether each has the effect that the page promises. Between the commands it
# does what the pages are about: it fills the disk, damages the database, removes the key file.
# Usage: packaging/test_runbook.sh target/debug/chatserver
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "$1")
target=$(dirname "$(dirname "$binary")")
subject='runbook'
. packaging/testing.sh
. packaging/machines.sh
PATH=$PATH:/usr/sbin
"${as_root[@]}" packaging/boot_debian.sh --check

# Blocks of commands, each in a file of its own that begins with the title of its page.
mkdir "$folder/blocks"
awk -v folder="$folder/blocks" '
  /^## / { inside = $0 == "## Runbook"; page = "Runbook" }
  inside && /^### / { page = substr($0, 5) }
  !inside || !/^ *```/ { if (file) print substr($0, indent + 1) >file; next }
  file { close(file); file = ""; next }
  /^ *```sh$/ { file = folder "/" ++count; indent = index($0, "`") - 1; print page >file; next }
  { print "not a block of commands: " $0 >"/dev/stderr"; exit 1 }
' docs/operating.md
blocks=$(find "$folder/blocks" -type f | wc -l)
[ "$blocks" -gt 20 ] || fail "only $blocks blocks are found"
block=0

# Types the next block of the runbook, which must be of this page.
types_block() {
  local page=$1 machine=$2
  block=$((block + 1))
  [ "$block" -le "$blocks" ] || fail "$page has no further block"
  [ "$(head -n 1 "$folder/blocks/$block")" = "$page" ] ||
    fail "no test of a block in '$(head -n 1 "$folder/blocks/$block")': $(tail -n +2 "$folder/blocks/$block")"
  types "$machine" "$(tail -n +2 "$folder/blocks/$block")"
}
runs() {
  types_block "$1" "${2:-old}"
  [ "$ended" = 'failures: 0>' ] || fail "$1: $ended"
}
fails() {
  types_block "$1" old
  [ "$ended" != 'failures: 0>' ] || fail "$1: a command should fail"
}
says() {
  for part in "$@"; do
    expect "$(head -n 1 "$folder/blocks/$block"), block $block" "$said" "$part"
  done
}
says_not() {
  [[ $said != *$1* ]] || fail "$(head -n 1 "$folder/blocks/$block"), block $block: $1 is in $said"
}

# Prints the commands of the blocks with `chat` in a section below the runbook.
commands_of() {
  awk -v title="$1" '
    /^##/ { inside = $0 ~ "^##+ " title "$" }
    !inside { next }
    /^```sh$/ { text = ""; within = 1; next }
    /^```/ { if (within && text ~ /(^|\n)([A-Z_]+=[0-9]+ )?chat /) printf "%s", text; within = 0 }
    within { text = text $0 "\n" }
  ' docs/operating.md
}
# Types those commands, which must all succeed.
runs_section() {
  local commands
  commands=$(commands_of "$2")
  [ -n "$commands" ] || fail "no commands in $2"
  does "$1" "$commands"
}
bare=$(sed '1,/^## Settings$/d' docs/operating.md | grep '^chatserver ' | grep -v '^chatserver backup verify ' || true)
[ -z "$bare" ] || fail "a command without the user and the settings of the service: $bare"

# A machine whose names are those of the runbook. A command after `no` must fail.
gets_ready() {
  boots "$1"
  does "$1" 'echo 127.0.0.1 localhost chat.example.com db.example.com >/etc/hosts; mkdir package upgrade
    no() { ! "$@"; }'
}
# Writes standard input into a file of a machine.
gets_file() {
  inside "$1" install -D -m 644 /proc/self/fd/0 "$2"
}

# The proxy of the old machine, with the configuration that the package brings.
start_nginx() {
  # The server's client takes no certificate of an authority for that of a server.
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout "$folder/ca.key" -out "$folder/ca.pem" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=chat.example.com -keyout "$folder/key.pem" -out "$folder/request.pem" 2>/dev/null
  openssl x509 -req -days 1 -in "$folder/request.pem" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial \
    -extfile <(echo subjectAltName=DNS:chat.example.com) -out "$folder/cert.pem" 2>/dev/null
  sed -e "s|ssl_certificate_key .*|ssl_certificate_key $folder/key.pem;|" -e "s|ssl_certificate  .*|ssl_certificate $folder/cert.pem;|" \
    -e '/listen \[::\]/d' packaging/nginx.conf >"$folder/block.conf"
  printf '%s\n' 'daemon off;' 'user root root;' "pid $folder/nginx.pid;" "error_log $folder/nginx.log;" 'events {}' 'http {' 'access_log off;' \
    "client_body_temp_path $folder/body;" "proxy_temp_path $folder/proxy;" "fastcgi_temp_path $folder/fastcgi;" \
    "uwsgi_temp_path $folder/uwsgi;" "scgi_temp_path $folder/scgi;" "include $folder/block.conf;" '}' >"$folder/nginx.conf"
  in_network_of old
  "${in_network[@]}" nginx -p "$folder" -c "$folder/nginx.conf" &
  running+=($!)
  gets_file old /usr/local/share/ca-certificates/chat.crt <"$folder/ca.pem"
  does old update-ca-certificates
}

# PostgreSQL of this machine, in the network of the new one.
start_postgres() {
  local programs as_nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
  in_network_of new
  programs=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)")
  "${as_root[@]}" install -d -o nobody "$folder/postgres"
  "${as_root[@]}" chmod 755 "$folder"
  echo chat-password >"$folder/password.txt"
  chmod 644 "$folder/password.txt"
  "${in_network[@]}" "${as_nobody[@]}" "$programs/initdb" -D "$folder/postgres" -U postgres -A scram-sha-256 \
    --pwfile="$folder/password.txt" >"$log" 2>&1 || fail 'no PostgreSQL is made'
  "${in_network[@]}" "${as_nobody[@]}" "$programs/postgres" -D "$folder/postgres" -k "$folder/postgres" -c fsync=off \
    -c dynamic_shared_memory_type=mmap \
    >"$folder/postgres.log" 2>&1 &
  running+=($!)
  for _ in $(seq 100); do
    ! "${in_network[@]}" env PGPASSWORD=chat-password "$programs/psql" -q -h 127.0.0.1 -U postgres \
      -c "CREATE ROLE chat LOGIN PASSWORD 'chat-password'" \
      -c "CREATE DATABASE chat OWNER chat ENCODING 'UTF8' TEMPLATE template0" >"$log" 2>&1 || break
    sleep 0.1
  done
  gets_file new /root/password.txt <"$folder/password.txt"
}

# Commands of people, with the client of the command line, in the shell of the old machine.
people='
  logs_in() {
    grep "^$1@" /tmp/credentials.csv | { IFS=, read -r _ _ key password; printf "%s\n" "$key" "$password"; } |
      chatserver client login "$2" --profile "$1.json"
  }
  sends() { chatserver client send "$2@example.com" "$3" --profile "$1.json"; }
  reads() { chatserver client read "$2" --profile "$1.json"; }'

packages_of_two_versions
gets_ready old
start_nginx
gets_file old /root/package/chatserver_1_amd64.deb <"$folder/old.deb"

runs Runbook

page='Install and invite'
gets_file old /root/nginx.conf <packaging/nginx.conf
does old 'cd /root/package'
runs "$page"
does old 'systemctl is-active chatserver; systemctl is-enabled chatserver; cd /root'
runs "$page"
says 'http.public_url = https://chat.example.com/ (file'
runs "$page"
says OK 'https://chat.example.com/ answers' 'a WebSocket opens through' '0 problems'
runs "$page"
says 'Z.db' 'Z.key'
does old 'systemctl list-timers --all; systemctl is-active chatserver-backup.timer'
expect 'the next backup' "$said" chatserver-backup.timer
does old 'cmp /usr/share/doc/chatserver/packaging/nginx.conf /root/nginx.conf'
runs "$page"
[ "$(grep -c '^https://chat.example.com/app/invite.html#invite=' <<<"$said")" -eq 10 ] || fail "ten links are expected, got $said"
does old 'stat -c %a links.txt'
expect 'the links are private' "$said" 600
runs "$page"
says 'alice@example.com' 'judy@example.com'
# Four people register, and six more later. An import makes the same users, and the test gets their keys.
does old '
  registers() {
    { echo email,nick,fullname; head -n "$1" people.txt | sed "s/\([a-z]*\)@.*/&,\1,/"; } | chat user import - --credentials "$2"
  }
  registers 4 /tmp/credentials.csv'
runs "$page"
does old 'wc -l <registered.txt; registers 10 /tmp/more.csv'
expect 'those who have registered' "$said" 4
does old "$(tail -n +2 "$folder/blocks/$block")"
does old "$people"'
  for one in alice bob dave; do logs_in "$one" https://chat.example.com/; done
  sends alice bob "before the disk is full"
  sends dave alice "hello from dave"'
runs "$page"
says 'user alice@example.com bytes of data:' 'users: 10, conversations: 45'

runs 'First look'
says 'active (running)' listening OK '0 problems'

page='A full disk'
# The disk has 150 MiB left, and holds an old backup.
does old '
  fallocate -l 200M /var/backups/chatserver/old.db
  touch -d "30 days ago" /var/backups/chatserver/old.db
  mount -o "remount,size=$(($(df --output=used -k /var | tail -n 1) + 150 * 1024))k" /var
  until chat health | grep -q storage_full; do sleep 0.1; done
  no sends alice bob "while the disk is full"
  reads bob alice@example.com'
expect 'a full disk refuses messages' "$said" 'disk is nearly full'
expect 'a full disk lets people read' "$said" 'before the disk is full'
runs "$page"
says /var/backups/chatserver 'user alice@example.com bytes of data:'
runs "$page"
runs "$page"
says 'to be removed in all: messages: 0'
runs "$page"
says 'retention.days = 365 (file'
runs "$page"
runs "$page"
says OK 'ok       disk' '0 problems'
does old 'sends alice bob "after the disk was full"'

page=Damage
# A full disk or a power cut has left a part of the copy of the key file.
does old '
  truncate -s 7 /var/backups/chatserver-keys/*.key
  systemctl start chatserver-backup
  cmp /var/lib/chatserver/chatserver.db.key /var/backups/chatserver-keys/*.key
  sends alice bob "after the backup"
  systemctl stop chatserver
  dd if=/dev/urandom of=/var/lib/chatserver/chatserver.db bs=4096 seek=8 count=24 conv=notrunc
  systemctl start chatserver || true'
runs "$page"
fails "$page"
says 'problem  database: ' 'disk image is malformed' 'chatserver restore'
runs "$page"

page=Restore
does old 'rm /var/lib/chatserver/chatserver.db.key'
runs "$page"
says 'is sound' '10 users'
runs "$page"
fails "$page"
says 'there is no key file'
runs "$page"
says 'is restored; epoch'
runs "$page"
says OK 'the whole database is sound' 'ok       keyfile' '0 problems'
does old 'stat -c "%a %U" /var/backups/chatserver-replaced-*'
expect 'the copy is private' "$said" '700 chatserver'
does old 'reads bob alice@example.com'
expect 'restored messages' "$said" 'after the disk was full'
says_not 'after the backup'

page='The machine is lost'
gets_ready spare
gets_file spare /root/package/chatserver_1_amd64.deb <"$folder/old.deb"
# The copies have lost their owners, as after scp. One of them is of another database.
inside old tar -C /var/backups -c chatserver chatserver-keys | gets_file spare /root/copies.tar
inside old cat /tmp/credentials.csv | gets_file spare /tmp/credentials.csv
does spare "$(tail -n +2 "$folder/blocks/1")"'; cd package; tar --no-same-owner -xf ../copies.tar
  echo "1 $(head -c 32 /dev/urandom | od -An -vtx1 | tr -d " \n")" >chatserver-keys/2099-01-01T00-00-00Z.key'
runs "$page" spare
runs "$page" spare
runs "$page" spare
says 'is sound' '10 users'
# What the page says of a restore beside the key file of the package.
types spare 'chat doctor; chat restore "$backup" --force'
says 'ok       keyfile' 'is not that of the database: its key 1 has the fingerprint'
runs "$page" spare
says 'is not that of the database: its key 1 has the fingerprint' 'is restored; epoch'
runs "$page" spare
says OK 'API keys of 10 users' '0 problems'
does spare "$people"'; logs_in bob http://127.0.0.1:8080/; reads bob alice@example.com'
expect 'messages on the machine that replaces a lost one' "$said" 'after the disk was full'
does spare 'systemctl start chatserver-backup; ls -lt /var/backups/chatserver'

page='Someone leaves'
does old 'grep -lF dave@example.com /var/lib/chatserver/chatserver.db; chat user show dave@example.com --json'
expect 'Dave is there before' "$said" /var/lib/chatserver/chatserver.db
runs "$page"
does old 'no reads dave alice@example.com; chat audit --since 1d'
expect 'the operator in the audit log' "$said" 'dave@example.com by command user disable, root'
runs "$page"
does old 'stat -c %a dave.json; grep -c dave@example.com dave.json; rm dave.json'
expect 'the export is private' "$said" 600
# A mistyped address deletes nobody, and sets no id.
does old "$(tail -n +2 "$folder/blocks/$((block + 1))" | sed s/dave@/nobody@/g)"' || echo "it fails, with the id <$id>"'
expect 'a mistyped address' "$said" 'it fails, with the id <>'
runs "$page"
runs "$page"
says 'nothing is left' OK
# The check of the page, with a folder that can't be read.
check=$(sed -n 's|/var/lib/chatserver |/nowhere |; /nothing is left/p' "$folder/blocks/$block")
types old "$check"
says_not 'nothing is left'
[ "$ended" = 'failures: 1>' ] || fail "a check that fails has failures: $ended"
# Looks for more than the runbook does.
does old '[ "${#id}" -eq 32 ]; no grep -raqiF -e dave@example.com -e "$id" /var/lib/chatserver; no chat user show dave@example.com'
runs "$page"
says Z.db chatserver-damaged chatserver-replaced
does old 'chat user invite kim@example.com'
runs "$page"
does old 'no grep -raqF kim@example.com <(chat user invitations); chat audit --user kim@example.com'
expect 'the audit log keeps an address' "$said" kim@example.com
does old 'reads alice "Deleted user"'
expect 'others keep the messages' "$said" 'hello from dave'

page=Upgrading
gets_file old /root/upgrade/chatserver_2_amd64.deb <"$folder/next.deb"
gets_file old /root/upgrade/old/chatserver_1_amd64.deb <"$folder/old.deb"
does old 'cd /root/upgrade; systemctl show -p MainPID chatserver >/tmp/before'
runs "$page"
runs "$page"
runs "$page"
says +next 'active (running)' OK '0 problems'
does old 'ls /var/backups/chatserver/*Z.db'
says_not before-upgrade
does old 'no grep -qxF "$(systemctl show -p MainPID chatserver)" /tmp/before; cd /root; sends alice bob "after the upgrade"; cd upgrade'
runs "$page"
does old 'dpkg-query -W chatserver; chat health; cd /root; reads bob alice@example.com; cd upgrade'
says_not +next
expect 'going back loses nothing' "$said" 'after the upgrade'
does old 'chat friend remove alice@example.com erin@example.com; chat user disable judy@example.com'
runs "$page"
says 'is restored; epoch' 'chatserver user disable judy@example.com' 'undone: friendship_ended' OK
does old 'cd /root; reads bob alice@example.com'
says_not 'after the upgrade'

page='Moving house'
gets_ready new
gets_file new /root/package/chatserver_1_amd64.deb <"$folder/old.deb"
does new "$(tail -n +2 "$folder/blocks/1")"'; apt-get install -y ./package/chatserver_*.deb'
# The sections below the runbook, beside the database of the package. The move brings the settings of the old machine.
does new '
  sed -i "s|^# public_url|public_url|; s|^# .admin.|[admin]|; s|^# listen = .unix|listen = \"unix|" /etc/chatserver/chatserver.toml
  systemctl restart chatserver'
for section in 'Many users' 'Inviting people' 'The admin page' 'Rotating the keys' Retention Backup; do
  runs_section new "$section"
done
says 'is sound' '2 users'
runs "$page" old
does old 'stat -c %a chatserver.tar; no systemctl is-active chatserver'
inside old cat /root/chatserver.tar | gets_file new /root/chatserver.tar
inside old cat /tmp/credentials.csv | gets_file new /tmp/credentials.csv
runs "$page" new
says '0 problems' OK
does new "$people"'; logs_in bob http://127.0.0.1:8080/; reads bob alice@example.com'
expect 'messages on the new machine' "$said" 'after the disk was full'
start_postgres
does new 'printf "\n[auth] # For laptops.\nclock_skew_seconds = 600\n" >>/etc/chatserver/chatserver.toml'
runs "$page" new
says 'auth.key_file = /var/lib/chatserver/chatserver.db.key (file' 'auth.clock_skew_seconds = 600 (file'
does new 'no ls password.txt'
runs "$page" new
says 'database.url = postgres://'
runs "$page" new
says OK
does new 'reads bob alice@example.com; chat user list'
expect 'messages in PostgreSQL' "$said" 'after the disk was full'

[ "$block" -eq "$blocks" ] || fail "$block of $blocks blocks are run"
echo 'runbook: ok'
