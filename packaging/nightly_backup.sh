#!/bin/sh
# Backs up the SQLite database of this machine, verifies the backup, keeps a copy of the key file, and removes backups
# that are older than two weeks. chatserver-backup.service runs it as the user of the service.
set -eu
backups=/var/backups/chatserver
keys=/var/backups/chatserver-keys

file=$backups/$(date -u +%Y-%m-%dT%H-%M-%SZ).db
made=$(chatserver backup "$file" --config /etc/chatserver/chatserver.toml --json)
chatserver backup verify "$file"

# A key file that has changed gets a copy of its own: older backups may need an older one.
key=$(printf '%s' "$made" | sed -n 's/.*"keyfile":"\([^"]*\)".*/\1/p')
copy=$keys/$(date -u -r "$key" +%Y-%m-%dT%H-%M-%SZ).key
# A copy gets its name when it is complete and on disk. One that differs is replaced.
if ! cmp -s "$key" "$copy"; then
  install -m 600 "$key" "$copy.new"
  sync "$copy.new"
  mv "$copy.new" "$copy"
  sync "$keys"
fi

# Only after a success: while backups fail, the old ones stay.
find "$backups" -maxdepth 1 -name '*.db' -mtime +14 -delete
