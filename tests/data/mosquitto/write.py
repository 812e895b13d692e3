#!/usr/bin/env python3
"""Has a mosquitto write its mosquitto.db: write.py PROGRAM FILE

What is in it is said by tests/it/import.rs. `version-5.db` was written by mosquitto 1.6.10,
`version-6.db` by mosquitto 2.1.2, both built from source.
"""
import os, shutil, signal, socket, struct, subprocess, sys, tempfile, time

PORT = 18995


def field(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    assert len(body) < 128
    return bytes([first, len(body)]) + body


class Client:
    def __init__(self, name, version=4, clean=0, properties=b""):
        self.v5 = version == 5
        self.socket = socket.create_connection(("127.0.0.1", PORT), 5)
        body = field("MQTT") + bytes([version, 2 * clean]) + struct.pack(">H", 60)
        body += bytes([len(properties)]) + properties if self.v5 else b""
        self.send(packet(0x10, body + field(name)))
        assert self.read()[0] == 0x20

    def send(self, data):
        self.socket.sendall(data)

    def read(self):
        head = self.exactly(2)
        return head[:1] + self.exactly(head[1])

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            assert more, "closed"
            data += more
        return data

    def subscribe(self, identifier, topic, options, properties=b""):
        body = struct.pack(">H", identifier)
        body += bytes([len(properties)]) + properties if self.v5 else b""
        self.send(packet(0x82, body + field(topic) + bytes([options])))
        assert self.read()[0] == 0x90

    def publish(self, first, topic, identifier, payload, properties=b""):
        body = field(topic) + (struct.pack(">H", identifier) if first & 6 else b"")
        body += bytes([len(properties)]) + properties if self.v5 else b""
        self.send(packet(first, body + payload.encode()))
        if first & 6:
            return self.read()

    def leave(self):
        self.send(b"\xe0\0")
        self.socket.close()


def history():
    never = b"\x11\xff\xff\xff\xff"
    # They get messages and are silent, or say PUBREC and no more.
    flight = Client("flight")
    flight.subscribe(1, "flight/#", 2)
    five = Client("five", 5, 0, never)
    five.subscribe(1, "five/#", 1, b"\x0b\x07")
    away = Client("away")
    away.subscribe(1, "away/#", 2)
    away.subscribe(2, "+/once", 1)
    away.leave()
    publisher = Client("publisher", 5, 1)
    publisher.publish(0x32, "flight/1", 1, "one")
    assert flight.read()[0] == 0x32
    publisher.publish(0x34, "flight/2", 2, "two")
    publisher.send(packet(0x62, b"\0\2"))
    publisher.read()
    assert flight.read()[0] == 0x34
    publisher.publish(0x34, "flight/3", 3, "three")
    publisher.send(packet(0x62, b"\0\3"))
    publisher.read()
    relayed = flight.read()
    assert relayed[0] == 0x34
    flight.send(packet(0x50, relayed[11:13]))
    assert flight.read()[0] == 0x62
    publisher.publish(0x32, "five/1", 4, "with", b"\x26" + field("key") + field("value"))
    publisher.publish(0x32, "five/2", 5, "plain", b"\x03" + field("text"))
    five.read(), five.read()
    for number in range(3):
        publisher.publish(0x32, "away/x", 10 + number, f"q1-{number}")
        publisher.publish(0x34, "away/x", 20 + number, f"q2-{number}")
        publisher.send(packet(0x62, bytes([0, 20 + number])))
        publisher.read()
    publisher.publish(0x31, "kept/0", 0, "zero")
    publisher.publish(0x33, "kept/1", 30, "one")
    publisher.publish(0x33, "kept/gone", 31, "gone")
    publisher.publish(0x33, "kept/gone", 32, "")
    # PUBREC has come, PUBREL has not been sent.
    sender = Client("sender")
    assert sender.publish(0x34, "away/sent", 77, "released later")[0] == 0x50
    time.sleep(0.3)
    return flight, five, publisher, sender


def main():
    program, file = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        conf = os.path.join(directory, "conf")
        with open(conf, "w") as out:
            out.write(f"port {PORT}\nbind_address 127.0.0.1\nallow_anonymous true\nuser root\n")
            out.write(f"persistence true\npersistence_location {directory}/\n")
        broker = subprocess.Popen([program, "-c", conf])
        try:
            time.sleep(0.7)
            clients = history()
            for client in clients:
                client.socket.close()
            time.sleep(0.3)
        finally:
            broker.send_signal(signal.SIGTERM)
            broker.wait()
        shutil.copy(os.path.join(directory, "mosquitto.db"), file)


main()
