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
chat_profile1() {
  CHATSERVER_CONVERSATION_KEY="$CHAT_KEY" {{program}} client "$1" --conversation "$CHAT_CONVERSATION" \
    --instance "$CHAT_INSTANCE" --id "$2" --from "$3"
}
chat_id() { openssl rand -hex 16 | sed 's/\(........\)\(....\)\(....\)\(....\)/\1-\2-\3-\4-/'; }
chat_add() {
  CHAT_KEY=$(chat_secret) CHAT_INSTANCE=$(chat_instance) CHAT_ID=$(chat_id)
  CHAT_DATA=$(printf '%s' "$1" | chat_profile1 seal "$CHAT_ID" "$CHAT_USER")
  chat_call chatconversation "\"action\":\"add\",\"conversationid\":\"$CHAT_CONVERSATION\",\"instance\":\"$CHAT_INSTANCE\",\"message\":{\"ID\":\"$CHAT_ID\",\"Type\":\"Message\",\"Created\":\"$(date -u '+%Y-%m-%d %H:%M:%S')\",\"ValidUntil\":\"\",\"Data\":\"$CHAT_DATA\"}"
}
chat_download() {
  CHAT_INSTANCE=$(chat_instance)
  chat_call chatconversation "\"action\":\"download\",\"extended\":true,\"conversationid\":\"$CHAT_CONVERSATION\",\"instance\":\"$CHAT_INSTANCE\""
}
chat_line() { printf '%s' "$CHAT_LINE" | chat_field "$1"; }
chat_read() {
  CHAT_KEY=$(chat_secret) CHAT_INSTANCE=$(chat_instance)
  chat_download | tr '{' '\n' | grep '"Data"' | while read -r CHAT_LINE; do
    chat_line Data | chat_profile1 open "$(chat_line ID)" "$(chat_line UserID)"
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
