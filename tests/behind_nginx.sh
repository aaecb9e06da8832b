#!/usr/bin/env bash
# Runs the server behind a real nginx with the block that config/nginx.conf gives, and sends what a
# client sends: a login over TLS, too large a body, and failures that count for the client's address.
# Usage: tests/behind_nginx.sh target/debug/chatserver
set -euo pipefail
server=$(realpath "$1")
block=$(realpath "$(dirname "$0")/../config/nginx.conf")
folder=$(mktemp -d)
cd "$folder"

chat='' proxy=''
cleanup() {
  [ -z "$proxy" ] || kill "$proxy" || true
  [ -z "$chat" ] || kill "$chat" || true
  wait
  rm -rf "$folder"
}
trap cleanup EXIT

fail() {
  printf 'behind nginx: %s\n' "$*" >&2
  tail -n 5 -- *.log >&2 || true
  exit 1
}

free_port() {
  local port
  while port=$((20000 + RANDOM % 20000)); do
    (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}
http_port=$(free_port)
tls_port=$(free_port)

openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=chat.example.com -addext subjectAltName=DNS:chat.example.com \
  -keyout key.pem -out cert.pem 2>/dev/null
sed -e "s|listen 443 ssl|listen 127.0.0.1:$tls_port ssl|" -e '/listen \[::\]/d' \
  -e "s|ssl_certificate_key .*|ssl_certificate_key $folder/key.pem;|" \
  -e "s|ssl_certificate  .*|ssl_certificate $folder/cert.pem;|" \
  -e "s|http://127.0.0.1:8080|http://127.0.0.1:$http_port|" "$block" >block.conf
cat >nginx.conf <<EOF
daemon off;
user $(id -un) $(id -gn);
pid $folder/nginx.pid;
error_log $folder/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    include block.conf;
}
EOF

key=$("$server" user add alice@example.com --nick Alice | sed -n 's/^apikey *//p')
CHATSERVER_HTTP__LISTEN=127.0.0.1:$http_port CHATSERVER_HTTP__METRICS_LISTEN='' \
  CHATSERVER_HTTP__PUBLIC_URL=https://chat.example.com/ CHATSERVER_HTTP__TRUSTED_PROXIES=127.0.0.1 \
  CHATSERVER_LIMITS__FAILURES_PER_MINUTE=1 "$server" serve 2>chat.log &
chat=$!
nginx -p "$folder" -c "$folder/nginx.conf" 2>nginx-start.log &
proxy=$!

curl_chat() {
  curl -sS --cacert cert.pem --resolve "chat.example.com:$tls_port:127.0.0.1" "$@"
}
base=https://chat.example.com:$tls_port
for _ in $(seq 100); do
  curl_chat -f "$base/readyz" >/dev/null 2>&1 && break
  sleep 0.1
done
curl_chat -f "$base/readyz" >/dev/null || fail 'the server is not ready'

login() {
  # Another address of this machine than the proxy's: that one is trusted.
  curl_chat --interface 127.0.0.2 "$base/?srv=chatserver&api=chatlogin" -H 'Content-Type: application/json' \
    -H 'Ozeki-Station: 0123456789abcdef0123456789abcdef' --data-binary "{\"action\":\"login\",\"apikey\":\"$1\"}" "${@:2}"
}
expect() {
  case $2 in
  *"$3"*) ;;
  *) fail "$1: expected $3, got ${2:0:300}" ;;
  esac
}

answer=$(login "$key")
expect 'login over TLS' "$answer" '{"status":"OK","errormessage":""'
expect 'the announced URL' "$answer" '"login":"https://chat.example.com/?srv=chatserver&api=chatlogin"'

head -c 1500000 /dev/zero | tr '\0' x >large
answer=$(curl_chat "$base/?srv=chatserver&api=chatlogin" -H 'Content-Type: application/json' --data-binary @large)
expect 'too large a body' "$answer" '"errorcode":"too_large"'

# nginx adds the address that it sees to what the client claims, and only that is believed.
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.1')
expect 'the first failure' "$answer" '"errorcode":"invalid_credentials"'
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.2')
expect 'the second failure' "$answer" '"errorcode":"rate_limited"'
echo 'behind nginx: ok'
