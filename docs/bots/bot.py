"""Answers each message once with "you said: …": python3 bot.py https://chat.example.com/ bot.json

bot.json is what `chatserver user add … --json` prints. Keep it at mode 0600: it holds the keys. The bot records how far it
has read beside it, in bot.json.py.positions.
"""
import hashlib, json, random, signal, sys, time, uuid
from chat import Chat, NoAnswer, Refused, place

# Refusals after which the message stays without an answer, or has it already.
PERMANENT = ("message_conflict", "not_friends", "blocked", "quota_exceeded", "too_large")

def answer(chat, conversation, message):
    text = chat.open(conversation, message)
    if message["UserID"] == chat.me or text is None:
        return
    # The ID follows from the message: a repeat after a crash is a message_conflict, and the answer is stored once.
    id = uuid.UUID(bytes=hashlib.sha256(place(conversation, message["ID"])).digest()[:16])
    try:
        chat.add(conversation, chat.seal(conversation, str(id), "you said: " + text[:1000]))
    except Refused as refused:
        if refused.code not in PERMANENT:
            raise

if len(sys.argv) != 3:
    sys.exit("usage: bot.py URL FILE")
signal.signal(signal.SIGINT, signal.SIG_DFL)
url, file = sys.argv[1:]
with open(file) as opened:
    keys = json.load(opened)
# A station is a device. It follows from the API key, so that each run is the same device.
station = hashlib.sha256(b"bot " + keys["apikey"].encode()).hexdigest()[:32]
while True:
    try:
        chat = Chat(url, station, keys["apikey"], keys["encryptionpassword"])
        chat.call("chatavailability", action="useravailable")
        print("answering at", url, file=sys.stderr)
        for conversation, message in chat.news(file + ".py.positions"):
            answer(chat, conversation, message)
    except (NoAnswer, Refused) as error:
        print(error, file=sys.stderr)
        if isinstance(error, Refused) and error.code == "invalid_credentials":
            sys.exit(1)
        time.sleep(random.uniform(1, 5))
