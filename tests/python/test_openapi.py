"""Checks live answers against the OpenAPI document that the server serves.

Run: pip install -r tests/requirements.txt && CHATSERVER=target/debug/chatserver pytest tests/python
"""

import collections
import datetime
import hashlib
import hmac
import json
import os
import socket
import subprocess
import time
import uuid

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

STATION = "0123456789abcdef0123456789abcdef"
NOBODY = "00000000000000000000000000000000"


class Server:
    """A server with Alice and Bob, who are friends, and calls signed by Alice."""

    def __init__(self, folder):
        binary = os.path.abspath(os.environ.get("CHATSERVER", "target/debug/chatserver"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.base = "http://127.0.0.1:%d" % probe.getsockname()[1]
        environment = {
            **os.environ,
            "CHATSERVER_DATABASE__URL": f"sqlite://{folder}/chat.db",
            "CHATSERVER_HTTP__LISTEN": self.base.removeprefix("http://"),
            "CHATSERVER_HTTP__METRICS_LISTEN": "",
            "CHATSERVER_LIMITS__REQUESTS_PER_SECOND": "0",
            "CHATSERVER_LIMITS__FAILURES_PER_MINUTE": "0",
            # Within the open files of any machine.
            "CHATSERVER_LIMITS__CONNECTIONS": "500",
            "CHATSERVER_HTTP__LISTENERS": "100",
            "CHATSERVER_LOG__FILTER": "warn",
        }

        def run(*arguments):
            return subprocess.check_output([binary, *arguments, "--json"], env=environment)

        self.run = run
        self.alice = json.loads(run("user", "add", "alice@example.com", "--nick", "Alice"))
        self.bob = json.loads(run("user", "add", "bob@example.com", "--nick", "Bob"))
        run("friend", "add", "alice@example.com", "bob@example.com")
        self.process = subprocess.Popen([binary, "serve"], env=environment)
        self.wait()
        self.document = requests.get(self.base + "/openapi.json", timeout=10).json()
        self.schemas = self.document["components"]["schemas"]
        self.validators = {}
        self.answered = collections.Counter()

    def wait(self):
        for _ in range(300):
            try:
                if requests.get(self.base + "/readyz", timeout=1).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError("the server is not ready within 30 s")

    def bodies(self):
        """Returns the schemas of all bodies."""
        return [schema for schema in self.schemas.values() if "x-api" in schema]

    def body_of(self, body):
        """Returns the schema of this body: of the API that takes it, or else of any that has such an action."""
        action = body.get("action") if isinstance(body, dict) else None
        named = [each for each in self.bodies() if each["properties"]["action"]["const"] == action]
        named.sort(key=lambda each: -len(each["required"]))
        valid = [each for each in named if self.validator(each, closed=False).is_valid(body)]
        return (valid + named + self.bodies())[0]

    def validator(self, schema, closed):
        """Returns a validator. A closed one takes no unknown property at any depth."""
        key = (schema["title"], closed)
        if key not in self.validators:
            whole = {**schema, "components": {"schemas": self.schemas}}
            if closed:
                whole = json.loads(json.dumps(whole), object_hook=close)
            self.validators[key] = jsonschema_rs.Draft202012Validator(whole)
        return self.validators[key]

    def call(self, schema, body, user=None):
        """Sends a body, signed by this user."""
        user = user or self.alice
        srv, api, content = schema["x-srv"], schema["x-api"], json.dumps(body).encode()
        signed = "\n".join([srv, api, user["userid"], STATION]).encode() + b"\n" + content
        signature = hmac.new(user["apikey"].encode(), signed, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "Ozeki-Station": STATION}
        if api != "chatlogin":
            headers |= {"Ozeki-User": user["userid"], "Ozeki-Signature": signature}
        query = {"srv": srv, "api": api}
        return requests.post(self.base, params=query, data=content, headers=headers, timeout=30)

    def conversation(self):
        schema = self.schemas["chatconversation.list"]
        body = {"action": "list", "timestamp": now(), "nonce": str(uuid.uuid4())}
        return self.call(schema, body).json()["conversations"][0]

    def invites(self):
        """Returns what a person needs who registers: a token, and the keys of Bob, as they are of the right form."""
        invited = json.loads(self.run("user", "invite", f"{uuid.uuid4()}@example.com"))
        login = {"action": "login", "apikey": self.bob["apikey"]}
        return {
            "invitation": invited["link"].rsplit("#invite=", 1)[1],
            "nick": "Carol",
            "publickey": json.loads(self.run("user", "show", "bob@example.com"))["publickey"],
            "rsakey": self.call(self.schemas["chatlogin.login"], login).json()["rsakey"],
        }

    def sample(self, schema):
        """Returns a body with all required fields, which the server carries out."""
        conversation = self.conversation()
        data = {"ID": str(uuid.uuid4()), "Type": "Message", "Created": now(), "ValidUntil": "", "Data": "AAAA"}
        values = {
            "action": schema["properties"]["action"]["const"],
            "apikey": self.alice["apikey"],
            "timestamp": now(),
            "conversationid": conversation["id"],
            "instance": conversation["instance"],
            "message": data,
            "messageids": [conversation["lastmessageid"] or "none-1"],
            "color": "#bae1ff",
            "friend": "carol@example.com",
            "friendid": NOBODY,
            "userid": NOBODY,
            "workspacename": "alice.example.com",
        }
        if "invitation" in schema["required"]:
            values |= self.invites()
        body = {name: values[name] for name in schema["required"]}
        return body | {"nonce": str(uuid.uuid4())}


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def close(schema):
    if "properties" in schema and isinstance(schema["properties"], dict):
        schema["additionalProperties"] = False
    return schema


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.terminate()
    assert server.process.wait(timeout=20) == 0


@pytest.fixture(scope="session")
def document(server):
    return schemathesis.openapi.from_dict(server.document)


def answers(server, schema, body, user=None):
    """Asserts that the server carries the body out, and that the answer is exactly of its schema."""
    assert server.validator(schema, closed=False).is_valid(body), body
    response = server.call(schema, body, user)
    answer = response.json()
    assert response.status_code == 200, answer
    expected = server.schemas[schema["x-answer"].rsplit("/", 1)[1]]
    server.validator(expected, closed=True).validate(answer)
    return answer


def bob_writes(server):
    """Adds a message of Bob that Alice has viewed, so that pages and lists are not empty."""
    for name, user in [("chatconversation.add", server.bob), ("chatreports.viewed", server.alice)]:
        answers(server, server.schemas[name], server.sample(server.schemas[name]), user)


def test_each_action_answers_as_its_schema_says(server):
    for _ in range(3):
        bob_writes(server)
        for schema in server.bodies():
            answers(server, schema, server.sample(schema))
    assert len(server.bodies()) == 33


def test_extended_answers_and_acknowledged_polls_are_of_their_schemas(server):
    schemas = server.schemas
    seen = set()
    for name, more in [
        ("chatconversation.list", {"extended": True}),
        ("chatconversation.show", {"extended": True}),
        ("chatconversation.download", {"extended": True, "firstmessageid": "none-1"}),
        ("chatconversation.downloadpartial", {"extended": True, "lastreportid": "none-1", "limit": 1}),
        ("chatnotification.download", {"ack": 0}),
        ("chatfriends.requests", {}),
    ]:
        bob_writes(server)
        seen |= names(answers(server, schemas[name], server.sample(schemas[name]) | more))
    assert {"unread", "more", "unknowncursor", "UserID", "MessageID", "sequence", "epoch", "nick"} <= seen


def names(value):
    """Returns the names of all properties, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

live = schemathesis.pytest.from_fixture("document")


@live.parametrize()
@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_generated_requests_get_documented_answers(server, case):
    body = case.body if isinstance(case.body, (dict, list, str, int, float, bool, type(None))) else None
    schema = server.body_of(body)
    if isinstance(body, dict) and case.meta.generation.mode == GenerationMode.POSITIVE:
        # Names that exist, and the present time: a request that is only well-formed finds nothing.
        real = server.sample(schema)
        body |= {name: real[name] for name in set(body) & set(real) - {"color", "message"}}
        body["nonce"] = real["nonce"]
    response = server.call(schema, body)
    case.validate_response(response, checks=CHECKS)
    if response.status_code == 200:
        server.answered[schema["x-api"] + "." + schema["properties"]["action"]["const"]] += 1
        expected = server.schemas[schema["x-answer"].rsplit("/", 1)[1]]
        server.validator(expected, closed=True).validate(response.json())


def test_generated_requests_were_carried_out(server):
    """Runs behind the generated requests, which must have reached most actions and not only their refusals."""
    assert len(server.answered) >= 25, server.answered
