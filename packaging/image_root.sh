#!/bin/sh
# Makes the root folder of the container image: a static binary, its folder, and certificate authorities.
# Usage: packaging/image_root.sh BINARY FOLDER, as root
set -eu
binary=$1
root=$2
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/var/lib"
install -m 755 "$binary" "$root/usr/bin/chatserver"
# For TLS to others, such as to a certificate authority.
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'chatserver:x:10001:10001::/var/lib/chatserver:/sbin/nologin' >"$root/etc/passwd"
echo 'chatserver:x:10001:' >"$root/etc/group"
# SQLite's temporary files, of `compact` for example.
install -d -m 1777 "$root/tmp" "$root/var/tmp"
install -d -m 0700 -o 10001 -g 10001 "$root/var/lib/chatserver"
