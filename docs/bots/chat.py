"""A small client of chatserver for Python 3.11 or newer, with the package cryptography. bot.py shows its use."""
import calendar, hashlib, hmac, http.client, json, os, re, secrets, time, urllib.error, urllib.request
from base64 import b64decode, b64encode
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATE = "%Y-%m-%d %H:%M:%S"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

class NoAnswer(Exception):
    """The server gives no usable answer. The change may or may not have been made."""

class Refused(Exception):
    """The server refuses a request. `code` is the errorcode, `answer` the whole answer."""
    def __init__(self, answer):
        super().__init__(f'{answer.get("errorcode")}: {answer.get("errormessage")}')
        self.code, self.answer = answer.get("errorcode"), answer

class Chat:
    def __init__(self, base, station, apikey, password):
        """Logs in. The password opens the private key here; the server never gets it."""
        self.base, self.station, self.apikey, self.clock_offset = base, station, apikey.encode(), 0
        login = self.post("chatlogin", json.dumps({"action": "login", "apikey": apikey}), {})
        self.me = login["userid"]
        self.private_key = open_private_key(login["rsakey"], password.encode())

    def now(self):
        return time.strftime(DATE, time.gmtime(time.time() + self.clock_offset))

    def call(self, api, attempts=3, **fields):
        """Makes a signed request. The nonce tells apart equal requests of one second."""
        body = json.dumps(fields | {"nonce": secrets.token_hex(8), "timestamp": self.now()})
        signed = "\n".join(["chatserver", api, self.me, self.station, body])
        signature = hmac.new(self.apikey, signed.encode(), hashlib.sha256).hexdigest()
        try:
            return self.post(api, body, {"Ozeki-User": self.me, "Ozeki-Signature": signature})
        except Refused as refused:
            if refused.code != "timestamp_out_of_range" or attempts == 1:
                raise
            server_time = calendar.timegm(time.strptime(refused.answer["servertime"], DATE))
            self.clock_offset = server_time - time.time()
            time.sleep(1)  # After a restore of the database, the next second begins.
            return self.call(api, attempts - 1, **fields)

    def post(self, api, body, headers):
        headers = headers | {"Content-Type": "application/json", "Ozeki-Station": self.station}
        request = urllib.request.Request(f"{self.base}?srv=chatserver&api={api}", body.encode(), headers)
        try:
            try:
                response = urllib.request.urlopen(request, timeout=40)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                answer = json.load(response)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NoAnswer(f"no answer from {self.base}: {error}") from error
        if answer.get("status") == "OK":
            return answer
        raise Refused(answer)

    def conversations(self):
        return self.call("chatconversation", action="list")["conversations"]

    def messages(self, conversation, after="", date=""):
        """Yields the messages behind the ID `after`; those since `date` if the server does not know the ID."""
        more = True
        while more:
            page = self.call("chatconversation", action="download", conversationid=conversation["id"],
                             instance=conversation["instance"], extended=True, firstmessageid=after,
                             firstmessagedate=date, firstreportdate="9999-12-31 23:59:59")
            new = [message for message in page["messages"] if message["ID"] != after]
            yield from new
            after, more = new[-1]["ID"] if new else after, page["more"]

    def news(self, file):
        """Yields each new message of all conversations, for ever. Asking for the next one records this one as handled.

        The first run begins with the messages that come from now on. Later runs go on at the positions in `file`.
        """
        if not os.path.exists(file):
            save(file, {one["id"]: self.position(one, one["lastmessageid"]) for one in self.conversations()})
        with open(file) as opened:
            positions = json.load(opened)
        sequence, is_news = 0, True
        while True:
            for conversation in self.conversations() if is_news else []:
                at = positions.get(conversation["id"])
                if at is None or at["instance"] != conversation["instance"]:
                    at = self.position(conversation, "")
                if at["after"] == conversation["lastmessageid"]:
                    continue
                for message in self.messages(conversation, at["after"], at["date"]):
                    yield conversation, message
                    positions[conversation["id"]] = self.position(conversation, message["ID"])
                    save(file, positions)
            time.sleep(1)
            # Acknowledges the hints of the answer before: their messages are handled now.
            hints = self.call("chatnotification", action="download", ack=sequence)
            sequence, is_news = hints["sequence"], bool(hints["conversationchangedof"])

    def position(self, conversation, id):
        """The date decides where reading goes on if a restore of the database has lost the message."""
        return {"instance": conversation["instance"], "after": id, "date": id and self.now()}

    def aes(self, conversation):
        return AESGCM(self.private_key.decrypt(b64decode(conversation["secret"]), OAEP))

    def open(self, conversation, message):
        """Returns the text, or None if the message does not open or names another sender than the server."""
        try:
            data, bound = b64decode(message["Data"]), place(conversation, message["ID"])
            content = json.loads(self.aes(conversation).decrypt(data[1:13], data[13:], bound))
            is_valid = data[0] == 1 and content["v"] == 1 and content["v"] is not True
            is_valid = is_valid and content["from"] == message["UserID"]
            content["text"].encode()  # Fails for an unpaired surrogate, and for what is no string.
            return content["text"] if is_valid else None
        except Exception:  # Others write the message, so each part of it may be malformed.
            return None

    def seal(self, conversation, id, text):
        """Returns a message. To send it again, send this object: its five fields must not change."""
        nonce, content = secrets.token_bytes(12), json.dumps({"v": 1, "from": self.me, "text": text}).encode()
        sealed = self.aes(conversation).encrypt(nonce, content, place(conversation, id))
        data = b64encode(b"\1" + nonce + sealed).decode()
        return {"ID": id, "Type": "Message", "Created": self.now(), "ValidUntil": "", "Data": data}

    def add(self, conversation, message):
        self.call("chatconversation", action="add", conversationid=conversation["id"],
                  instance=conversation["instance"], message=message)

def place(conversation, id):
    return "\n".join([conversation["id"], conversation["instance"], id]).encode()

def save(file, value):
    with open(file + ".new", "w") as opened:
        json.dump(value, opened)
    os.replace(file + ".new", file)

def open_private_key(pem, password):
    """Opens the PEM of login. The key stream of CFB is AES of the IV and of each block of the ciphertext."""
    iv, sealed = re.search(r"AES-256-CFB,(\w+)\s+(.+)-----END", pem, re.DOTALL).groups()
    iv, sealed = bytes.fromhex(iv), b64decode(sealed)
    first = hashlib.md5(password + iv[:8]).digest()
    second = hashlib.md5(first + password + iv[:8]).digest()
    aes = Cipher(algorithms.AES(first + second), modes.ECB()).encryptor()
    stream = aes.update(iv + sealed + bytes(-len(sealed) % 16))
    try:
        return serialization.load_der_private_key(bytes(a ^ b for a, b in zip(sealed, stream)), None)
    except ValueError:
        raise ValueError("the encryption password does not open the private key") from None
