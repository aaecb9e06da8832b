CHAT_URL='{{url}}'
CHAT_CONVERSATION='{{conversation}}'
chat_as_alice() {
  CHAT_USER='{{alice.userid}}' CHAT_STATION='{{alice.stationid}}'
  CHAT_APIKEY='{{alice.apikey}}' CHAT_PASSWORD='{{alice.encryptionpassword}}'
}
chat_as_bob() {
  CHAT_USER='{{bob.userid}}' CHAT_STATION='{{bob.stationid}}'
  CHAT_APIKEY='{{bob.apikey}}' CHAT_PASSWORD='{{bob.encryptionpassword}}'
}
chat_call() {
  CHAT_BODY="{$2,\"clientversioncode\":3,\"timestamp\":\"$(date -u '+%Y-%m-%d %H:%M:%S')\"}"
  CHAT_SIGNATURE=$(printf 'chatserver\n%s\n%s\n%s\n%s' "$1" "$CHAT_USER" "$CHAT_STATION" "$CHAT_BODY" |
    openssl dgst -sha256 -hmac "$CHAT_APIKEY" -r | cut -c1-64)
  curl -sS "$CHAT_URL?srv=chatserver&api=$1" -H 'Content-Type: application/json' \
    -H "Ozeki-Station: $CHAT_STATION" -H "Ozeki-User: $CHAT_USER" \
    -H "Ozeki-Signature: $CHAT_SIGNATURE" --data-binary "$CHAT_BODY" && echo
}
chat_field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
chat_login() {
  curl -sS "$CHAT_URL?srv=chatserver&api=chatlogin" -H 'Content-Type: application/json' \
    -H "Ozeki-Station: $CHAT_STATION" --data-binary "{\"action\":\"login\",\"apikey\":\"$CHAT_APIKEY\"}" && echo
}
chat_list() { chat_call chatconversation '"action":"list"'; }
chat_instance() { chat_list | chat_field instance; }
chat_pem() { printf '%b' "$(chat_login | chat_field rsakey)"; }
chat_key() {
  CHAT_PEM=$(mktemp)
  chat_pem >"$CHAT_PEM"
  openssl rsa -in "$CHAT_PEM" -passin "pass:$CHAT_PASSWORD" -check -noout
  rm -f "$CHAT_PEM"
}
chat_secret() {
  CHAT_PEM=$(mktemp)
  chat_pem >"$CHAT_PEM"
  chat_list | chat_field secret | openssl base64 -d -A |
    openssl pkeyutl -decrypt -inkey "$CHAT_PEM" -passin "pass:$CHAT_PASSWORD" -pkeyopt rsa_padding_mode:oaep \
      -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256 | od -An -v -tx1 | tr -d ' \n'
  rm -f "$CHAT_PEM"
}
chat_seal() {
  CHAT_IV=$(openssl rand -hex 16)
  printf '%s:%s' "$CHAT_IV" "$(printf '%s' "$1" |
    openssl enc -aes-256-cfb -K "$(chat_secret)" -iv "$CHAT_IV" -base64 -A)" | openssl base64 -A
}
chat_id() { openssl rand -hex 16 | sed 's/\(........\)\(....\)\(....\)\(....\)/\1-\2-\3-\4-/'; }
chat_add() {
  CHAT_DATA=$(chat_seal "$1")
  chat_call chatconversation "\"action\":\"add\",\"conversationid\":\"$CHAT_CONVERSATION\",\"instance\":\"$(chat_instance)\",\"message\":{\"ID\":\"$(chat_id)\",\"Type\":\"Message\",\"Created\":\"$(date -u '+%Y-%m-%d %H:%M:%S')\",\"ValidUntil\":\"\",\"Data\":\"$CHAT_DATA\"}"
}
chat_download() {
  chat_call chatconversation "\"action\":\"download\",\"conversationid\":\"$CHAT_CONVERSATION\",\"instance\":\"$(chat_instance)\""
}
chat_read() {
  CHAT_KEY=$(chat_secret)
  chat_download | tr '{' '\n' | chat_field Data | while read -r CHAT_DATA; do
    CHAT_OPENED=$(printf '%s' "$CHAT_DATA" | openssl base64 -d -A)
    printf '%s' "${CHAT_OPENED#*:}" | openssl enc -d -aes-256-cfb -K "$CHAT_KEY" -iv "${CHAT_OPENED%%:*}" -base64 -A
    echo
  done
}
chat_clear() {
  chat_call chatconversation "\"action\":\"clear\",\"conversationid\":\"$CHAT_CONVERSATION\",\"instance\":\"$(chat_instance)\""
}

chat_as_alice
chat_login
chat_key
chat_list
chat_add 'Hello from the shell'
chat_download
chat_read
chat_as_bob
chat_add 'Hello, Alice'
chat_as_alice
chat_read
