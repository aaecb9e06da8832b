#!/usr/bin/env bash
# Runs the server behind a real proxy, with the configuration that packaging/ has for it, and sends what a client sends: a
# login over TLS, a signed request, too large a body, failures that count for the client's address, and a subscription to
# what is new, which outlives the time-out of the proxy.
# Usage: tests/behind_proxy.sh nginx|haproxy|apache|caddy target/debug/chatserver
set -euo pipefail
kind=$1
server=$(realpath "$2")
packaging=$(realpath "$(dirname "$0")/../packaging")
PATH=$PATH:/usr/sbin
folder=$(mktemp -d)
cd "$folder"

chat='' proxy='' listener='' ponging=''
cleanup() {
  [ -z "$ponging" ] || kill "$ponging" 2>/dev/null || true
  [ -z "$listener" ] || kill "$listener" 2>/dev/null || true
  [ -z "$proxy" ] || kill "$proxy" 2>/dev/null || true
  [ -z "$chat" ] || kill "$chat" 2>/dev/null || true
  wait
  rm -rf "$folder"
}
trap cleanup EXIT

fail() {
  printf 'behind %s: %s\n' "$kind" "$*" >&2
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

# Copies the configuration of a proxy, with addresses and a certificate of this test. Each change must meet a line.
configure() {
  cp "$packaging/$1" block.conf
  shift
  local before
  for change in "$@"; do
    before=$(cat block.conf)
    sed -i -e "$change" block.conf
    [ "$before" != "$(cat block.conf)" ] || fail "$change changes nothing"
  done
}

start_nginx() {
  configure nginx.conf "s|listen 443 ssl|listen 127.0.0.1:$tls_port ssl|" '/listen \[::\]/d' \
    "s|ssl_certificate_key .*|ssl_certificate_key $folder/key.pem;|" \
    "s|ssl_certificate  .*|ssl_certificate $folder/cert.pem;|" \
    's|proxy_read_timeout 75s|proxy_read_timeout 3s|' "s|http://127.0.0.1:8080|http://127.0.0.1:$http_port|"
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
  nginx -p "$folder" -c "$folder/nginx.conf" 2>proxy.log &
}

start_haproxy() {
  cat cert.pem key.pem >both.pem
  # One server instead of three nodes, and no resolver for their names.
  configure haproxy.cfg "s|bind :8080|bind 127.0.0.1:$tls_port ssl crt $folder/both.pem alpn http/1.1|" \
    '/^resolvers system/,/^$/d' 's| resolvers system init-addr last,libc,none||' \
    's|maxconn 40000|maxconn 200|' '/server node[23]/d' "s|node1:8080|127.0.0.1:$http_port|" \
    's|timeout tunnel 75s|timeout tunnel 3s|'
  haproxy -f block.conf >proxy.log 2>&1 &
}

start_apache() {
  configure apache.conf "s|\*:443|127.0.0.1:$tls_port|" \
    "s|SSLCertificateFile .*|SSLCertificateFile $folder/cert.pem|" \
    "s|SSLCertificateKeyFile .*|SSLCertificateKeyFile $folder/key.pem|" \
    's|websocket timeout=75|websocket timeout=3|' "s|http://127.0.0.1:8080|http://127.0.0.1:$http_port|"
  {
    for module in mpm_event authz_core socache_shmcb ssl proxy proxy_http proxy_wstunnel; do
      echo "LoadModule ${module}_module /usr/lib/apache2/modules/mod_$module.so"
    done
    printf '%s\n' "ServerName localhost" "Listen 127.0.0.1:$tls_port" "PidFile $folder/apache.pid" \
      "ErrorLog $folder/apache.log" "DefaultRuntimeDir $folder" "User www-data" "Group www-data"
    cat block.conf
  } >apache.conf
  apache2 -d "$folder" -f "$folder/apache.conf" -D FOREGROUND >proxy.log 2>&1 &
}

start_caddy() {
  configure Caddyfile "s|^chat.example.com {|chat.example.com:$tls_port {\n\tbind 127.0.0.1\n\ttls $folder/cert.pem $folder/key.pem|" \
    "s|127.0.0.1:8080|127.0.0.1:$http_port|"
  { printf '{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n'; cat block.conf; } >Caddyfile
  HOME=$folder XDG_DATA_HOME=$folder XDG_CONFIG_HOME=$folder caddy run --config Caddyfile >proxy.log 2>&1 &
}

"$server" user add alice@example.com --nick Alice >alice
key=$(sed -n 's/^apikey *//p' alice)
user=$(sed -n 's/^userid *//p' alice)
station=0123456789abcdef0123456789abcdef
CHATSERVER_HTTP__LISTEN=127.0.0.1:$http_port CHATSERVER_HTTP__METRICS_LISTEN='' \
  CHATSERVER_HTTP__PUBLIC_URL=https://chat.example.com/ CHATSERVER_HTTP__TRUSTED_PROXIES=127.0.0.1 \
  CHATSERVER_LIMITS__FAILURES_PER_MINUTE=1 CHATSERVER_HTTP__LISTENER_PING_SECONDS=1 "$server" serve 2>chat.log &
chat=$!
"start_$kind"
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

body='{"action":"list","timestamp":"'$(date -u '+%Y-%m-%d %H:%M:%S')'"}'
signature=$(printf %s "$body" | CHATSERVER_APIKEY=$key "$server" sign --user "$user" --station "$station" --api chatconversation)
answer=$(curl_chat "$base/?srv=chatserver&api=chatconversation" -H 'Content-Type: application/json' -H "Ozeki-User: $user" \
  -H "Ozeki-Station: $station" -H "Ozeki-Signature: $signature" --data-binary "$body")
expect 'a signed request' "$answer" '{"status":"OK","errormessage":""'

head -c 1500000 /dev/zero | tr '\0' x >large
answer=$(curl_chat "$base/?srv=chatserver&api=chatlogin" -H 'Content-Type: application/json' --data-binary @large)
expect 'too large a body' "$answer" '"errorcode":"too_large"'

# A proxy adds the address that it sees to what the client claims, or replaces it. Only that is believed.
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.1')
expect 'the first failure' "$answer" '"errorcode":"invalid_credentials"'
answer=$(login wrong -H 'X-Forwarded-For: 192.0.2.2')
expect 'the second failure' "$answer" '"errorcode":"rate_limited"'
for _ in $(seq 100); do
  ! grep -q 'client=127.0.0.2 .*outcome="rate_limited"' chat.log || break
  sleep 0.1
done
grep -q 'client=127.0.0.2 .*outcome="rate_limited"' chat.log || fail 'the log has another address'

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
# Answers each ping, as long as the connection is there.
answers_pings() {
  while sleep 0.1; do
    while [ "$(LC_ALL=C tr -cd '\211' <heard | wc -c)" -gt "$(wc -l <pongs)" ]; do
      printf '\x8a\x80\0\0\0\0' >&3
      echo >>pongs
    done
  done
}
: >pongs
answers_pings &
ponging=$!
"$server" user add bob@example.com --nick Bob >bob
# Five pings take longer than the proxy waits for what is silent, and nothing else comes.
for _ in $(seq 200); do
  [ "$(wc -l <pongs)" -lt 5 ] || break
  sleep 0.1
done
[ "$(wc -l <pongs)" -ge 5 ] || fail "heard $(wc -l <pongs) pings"
"$server" friend add alice@example.com bob@example.com >/dev/null
hears 'a friend' "\"friendavailabilitesof\":[\"$(sed -n 's/^userid *//p' bob)\"]"
exec 3>&-
echo "behind $kind: ok"
