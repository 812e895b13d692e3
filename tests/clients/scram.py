"""SCRAM-SHA-256 over MQTT 5.0 with Python's own hashes and nothing of the broker's: scram.py PORT

The users are those of tests/it/passwords.rs; their password is "sesame".
"""

import base64
import hashlib
import hmac
import os
import socket
import sys

METHOD = b"SCRAM-SHA-256"


def field(data):
    return len(data).to_bytes(2, "big") + data


def varint(number):
    out = b""
    while True:
        number, byte = number >> 7, number & 127
        out += bytes([byte | 128 if number else byte])
        if not number:
            return out


def packet(first, body):
    return bytes([first]) + varint(len(body)) + body


def properties(data):
    block = b"\x15" + field(METHOD) + b"\x16" + field(data)
    return varint(len(block)) + block


def take_varint(stream):
    number = shift = 0
    while True:
        byte = stream.read(1)[0]
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number


def read(stream):
    first = stream.read(1)
    if not first:
        return None
    return first[0], stream.read(take_varint(stream))


def data_of(body, at):
    """The Authentication Data of a packet whose properties begin there."""
    mark = b"\x15" + field(METHOD) + b"\x16"
    assert body.count(mark) == 1, body
    rest = body[body.index(mark, at) + len(mark):]
    return rest[2:2 + int.from_bytes(rest[:2], "big")].decode()


class Scram:
    def __init__(self, user, password):
        self.password = password.encode()
        self.nonce = base64.b64encode(os.urandom(18)).decode()
        self.bare = f"n={user},r={self.nonce}"
        self.first = "n,," + self.bare

    def last(self, challenge):
        fields = dict(part.split("=", 1) for part in challenge.split(","))
        assert fields["r"].startswith(self.nonce) and len(fields["r"]) > len(self.nonce)
        salt, iterations = base64.b64decode(fields["s"]), int(fields["i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password, salt, iterations)
        key = hmac.digest(salted, b"Client Key", "sha256")
        unproven = f"c=biws,r={fields['r']}"
        said = f"{self.bare},{challenge},{unproven}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), said, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature))
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        self.verdict = "v=" + base64.b64encode(server).decode()
        return f"{unproven},p={base64.b64encode(proof).decode()}"


def log_in(user, password):
    """Logs in; stream, Reason Code of CONNACK, and whether the server has proven itself."""
    scram = Scram(user, password)
    stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20).makefile("rwb", 0)
    block = properties(scram.first.encode())
    stream.write(packet(0x10, field(b"MQTT") + bytes([5, 2, 0, 0]) + block + field(b"python")))
    kind, body = read(stream)
    assert (kind, body[0]) == (0xF0, 0x18), (kind, body)
    answer = scram.last(data_of(body, 1)).encode()
    stream.write(packet(0xF0, b"\x18" + properties(answer)))
    kind, body = read(stream)
    assert kind == 0x20, (kind, body)
    return stream, body[1], body[1] == 0 and data_of(body, 2) == scram.verdict


def again(stream, user, password):
    """Authenticates again; what comes then, and whether the server has proven itself."""
    scram = Scram(user, password)
    stream.write(packet(0xF0, b"\x19" + properties(scram.first.encode())))
    kind, body = read(stream)
    assert (kind, body[0]) == (0xF0, 0x18), (kind, body)
    answer = scram.last(data_of(body, 1)).encode()
    stream.write(packet(0xF0, b"\x18" + properties(answer)))
    kind, body = read(stream)
    return kind, body[0], kind == 0xF0 and data_of(body, 1) == scram.verdict


done = 0
for user in ("both", "keys"):
    stream, code, proven = log_in(user, "sesame")
    assert (code, proven) == (0, True), code
    assert again(stream, user, "sesame") == (0xF0, 0, True)
    assert again(stream, user, "simsim")[:2] == (0xE0, 0x87)
    assert read(stream) is None
    done += 1
for user, password in (("both", "simsim"), ("nobody", "sesame")):
    stream, code, _ = log_in(user, password)
    assert code == 0x87 and read(stream) is None
    done += 1
print(f"{done} of 4")
