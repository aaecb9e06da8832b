#!/usr/bin/env bash
# Runs the server behind a real nginx with the block that config/nginx.conf gives, and sends what a
# client sends: a login over TLS, too large a body, failures that count for the client's address, and a subscription to
# what is new, which outlives the time-out of the proxy.
# Usage: tests/behind_nginx.sh target/debug/chatserver
set -euo pipefail
server=$(realpath "$1")
block=$(realpath "$(dirname "$0")/../config/nginx.conf")
folder=$(mktemp -d)
cd "$folder"

chat='' proxy='' listener=''
cleanup() {
  [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
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
  # Connections to others begin at ports above these.
  while port=$((10000 + RANDOM % 20000)); do
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
  -e "s|proxy_read_timeout 75s|proxy_read_timeout 3s|" \
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

"$server" user add alice@example.com --nick Alice >alice
key=$(sed -n 's/^apikey *//p' alice)
user=$(sed -n 's/^userid *//p' alice)
station=0123456789abcdef0123456789abcdef
CHATSERVER_HTTP__LISTEN=127.0.0.1:$http_port CHATSERVER_HTTP__METRICS_LISTEN='' \
  CHATSERVER_HTTP__PUBLIC_URL=https://chat.example.com/ CHATSERVER_HTTP__TRUSTED_PROXIES=127.0.0.1 \
  CHATSERVER_LIMITS__FAILURES_PER_MINUTE=1 CHATSERVER_HTTP__LISTENER_PING_SECONDS=1 "$server" serve 2>chat.log &
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
    -H "Ozeki-Station: $station" --data-binary "{\"action\":\"login\",\"apikey\":\"$1\"}" "${@:2}"
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
expect 'the announced listener' "$answer" '"listeners":{"udp":"","ws":"","wss":"wss://chat.example.com/ws"}'

head -c 1500000 /dev/zero | tr '\0' x >large
answer=$(curl_chat "$base/?srv=chatserver&api=chatlogin" -H 'Content-Type: application/json' --data-binary @large)
expect 'too large a body' "$answer" '"errorcode":"too_large"'

# nginx adds the address that it sees to what the client claims, and only that is believed.
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.1')
expect 'the first failure' "$answer" '"errorcode":"invalid_credentials"'
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.2')
expect 'the second failure' "$answer" '"errorcode":"rate_limited"'

# A client that listens: what it sends goes through a pipe, what it hears into a file.
mkfifo said
openssl s_client -quiet -verify_return_error -CAfile cert.pem -servername chat.example.com \
  -connect "127.0.0.1:$tls_port" <said >heard 2>listener.log &
listener=$!
exec 3>said
says() {
  # A frame of text of 126 to 65535 bytes, masked with zeros.
  printf "\\x81\\xfe\\x$(printf %02x $((${#1} / 256)))\\x$(printf %02x $((${#1} % 256)))\\0\\0\\0\\0%s" "$1" >&3
}
hears() {
  for _ in $(seq 100); do
    ! grep -aqF "$2" heard || return 0
    sleep 0.1
  done
  fail "$1: expected $2, heard $(tail -c 300 heard | tr -cd '[:print:]')"
}
answer=$(curl_chat "$base/ws")
expect 'no WebSocket' "$answer" '"errorcode":"bad_request"'
printf '%s\r\n' 'GET /ws HTTP/1.1' 'Host: chat.example.com' 'Connection: Upgrade' 'Upgrade: websocket' \
  'Sec-WebSocket-Version: 13' "Sec-WebSocket-Key: $(openssl rand -base64 16)" '' >&3
hears 'the handshake' 'HTTP/1.1 101 Switching Protocols'
now=$(date -u '+%Y-%m-%d %H:%M:%S')
signature=$(printf 'chatserver\nchatlistener\n%s\n%s\n%s' "$user" "$station" "$now" |
  openssl dgst -sha256 -hmac "$key" -r | cut -c1-64)
says "{\"action\":\"subscribe\",\"userid\":\"$user\",\"stationid\":\"$station\",\"timestamp\":\"$now\",\"signature\":\"$signature\"}"
hears 'the subscription' '{"status":"OK","errormessage":"","epoch":'
hears 'everything' "\"conversationlistchangedof\":[\"$user\"]}"
# For longer than the proxy waits for what is silent, there is nothing but the server's pings, and the answers.
pongs=0
for _ in $(seq 50); do
  sleep 0.1
  if [ "$(LC_ALL=C tr -cd '\211' <heard | wc -c)" -gt "$pongs" ]; then
    printf '\x8a\x80\0\0\0\0' >&3
    pongs=$((pongs + 1))
  fi
done
[ "$pongs" -ge 3 ] || fail "heard $pongs pings"
"$server" user add bob@example.com --nick Bob >bob
"$server" friend add alice@example.com bob@example.com >/dev/null
hears 'a friend' "\"friendavailabilitesof\":[\"$(sed -n 's/^userid *//p' bob)\"]"
exec 3>&-
echo 'behind nginx: ok'
