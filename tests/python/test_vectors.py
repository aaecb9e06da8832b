"""Checks the Python client of docs/bots against docs/vectors.json."""

import base64
import hashlib
import json
import pathlib
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DOCS = pathlib.Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "bots"))
import chat  # noqa: E402

VECTORS = json.loads((DOCS / "vectors.json").read_text())


class Reader(chat.Chat):
    """A client with a conversation's key, without a server."""

    def __init__(self, key):
        self.key = AESGCM(bytes.fromhex(key))

    def aes(self, conversation):
        return self.key

    def opens(self, vector):
        conversation = {"id": vector["conversationid"], "instance": vector["instance"]}
        message = {"ID": vector["messageid"], "UserID": vector["sender"], "Data": vector["data_base64"]}
        return self.open(conversation, message)


class Poster(chat.Chat):
    """A client that keeps the request that it would send."""

    def __init__(self, vector):
        self.apikey, self.me, self.station = vector["apikey"].encode(), vector["userid"], vector["stationid"]
        self.clock_offset = 0

    def post(self, api, body, headers):
        self.body, self.signature = body, headers["Ozeki-Signature"]


@pytest.mark.parametrize("vector", [each for each in VECTORS["signatures"] if each["srv"] == "chatserver"])
def test_a_signature_is_reproduced(vector, monkeypatch):
    poster = Poster(vector)
    monkeypatch.setattr(chat.json, "dumps", lambda body: vector["body_utf8"])
    poster.call(vector["api"], action="any")
    assert (poster.body, poster.signature) == (vector["body_utf8"], vector["signature_hex"])


@pytest.mark.parametrize("vector", VECTORS["privatekeys"])
def test_a_private_key_is_opened(vector):
    key = chat.open_private_key(vector["rsakey"], vector["encryptionpassword_utf8"].encode())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    der = key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    assert hashlib.sha256(der).hexdigest() == vector["der_sha256_hex"]
    with pytest.raises(ValueError, match="does not open"):
        chat.open_private_key(vector["rsakey"], b"another password")


@pytest.mark.parametrize("vector", VECTORS["wrapped"])
def test_a_wrapped_key_is_opened(vector):
    owner = VECTORS["privatekeys"][0]
    key = chat.open_private_key(owner["rsakey"], owner["encryptionpassword_utf8"].encode())
    plain = key.decrypt(base64.b64decode(vector["wrapped_base64"]), chat.OAEP)
    assert plain.hex() == vector["plain_hex"]


@pytest.mark.parametrize("vector", VECTORS["payloads"])
def test_a_payload_opens(vector):
    assert Reader(vector["key_hex"]).opens(vector) == vector["text_utf8"]


@pytest.mark.parametrize("vector", VECTORS["payloads_that_do_not_open"], ids=lambda vector: vector["why"])
def test_no_other_payload_opens(vector):
    assert Reader(vector["key_hex"]).opens(vector) is None
