"""paho-mqtt against a broker: every transport and version; QoS, retained, will, resume, shared."""

import os
import queue
import ssl
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 15


class Client:
    def __init__(self, transport, version, name, clean=True, will=None):
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.inbox = queue.Queue()
        self.events = queue.Queue()
        websocket = transport in ("WS", "WSS")
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=version,
            transport="websockets" if websocket else "tcp",
            **options,
        )
        if websocket:
            self.mqtt.ws_set_options(path="/mqtt")
        if transport in ("TLS", "WSS"):
            self.mqtt.tls_set(ca_certs=os.environ["CA"], cert_reqs=ssl.CERT_REQUIRED)
        if will:
            self.mqtt.will_set(will, "gone", qos=1)
        self.mqtt.on_message = lambda c, u, message: self.inbox.put(message)
        self.mqtt.on_subscribe = lambda c, u, mid, codes, p: self.events.put(codes)
        self.mqtt.on_connect = lambda c, u, flags, reason, p: self.events.put((flags, reason))
        extra = {}
        if version == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 300
            extra = {"clean_start": clean, "properties": properties}
        self.mqtt.connect("localhost", int(os.environ[transport]), keepalive=30, **extra)
        self.mqtt.loop_start()
        self.flags, reason = self.events.get(timeout=PATIENCE)
        assert not reason.is_failure, reason

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        for code in self.events.get(timeout=PATIENCE):
            assert not code.is_failure, code

    def publish(self, topic, payload, qos, **more):
        self.mqtt.publish(topic, payload, qos=qos, **more).wait_for_publish(PATIENCE)

    def receive(self):
        return self.inbox.get(timeout=PATIENCE)

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def vanish(self):
        self.mqtt.loop_stop()
        self.mqtt.socket().close()


def check(transport, version, tag):
    receiver = Client(transport, version, tag + "-r")
    sender = Client(transport, version, tag + "-s")
    receiver.subscribe(tag + "/#", 2)
    for qos in (0, 1, 2):
        payload = f"q{qos}" * (20000 if qos else 1)
        sender.publish(f"{tag}/t", payload, qos)
        message = receiver.receive()
        assert (message.qos, message.payload.decode()) == (qos, payload)
    sender.publish(tag + "/kept", "kept", 1, retain=True)
    assert not receiver.receive().retain
    late = Client(transport, version, tag + "-late")
    late.subscribe(tag + "/kept", 1)
    assert late.receive().retain
    durable = Client(transport, version, tag + "-d", clean=False)
    assert not durable.flags.session_present
    durable.subscribe(f"$share/g/{tag}/shared", 1)
    durable.subscribe(tag + "/d", 2)
    durable.close()
    for n in range(20):
        sender.publish(tag + "/d", str(n), 1 + n % 2)
    durable = Client(transport, version, tag + "-d", clean=False, will=tag + "/will")
    # MQTT 3.1 has no such flag.
    assert durable.flags.session_present or version == mqtt.MQTTv31
    # The library shows a QoS 2 message when it is released, so order is per QoS.
    order = [int(durable.receive().payload) for _ in range(20)]
    assert [n for n in order if n % 2 == 0] == list(range(0, 20, 2)), order
    assert [n for n in order if n % 2 == 1] == list(range(1, 20, 2)), order
    for _ in range(20):
        receiver.receive()
    sender.publish(tag + "/shared", "x", 1)
    assert durable.receive().payload == b"x"
    assert receiver.receive().payload == b"x"
    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "reply/here"
        properties.CorrelationData = b"42"
        properties.UserProperty = [("a", "1"), ("a", "2")]
        sender.publish(tag + "/request", "?", 1, properties=properties)
        got = receiver.receive().properties
        assert got.ResponseTopic == "reply/here" and got.CorrelationData == b"42"
        assert got.UserProperty == [("a", "1"), ("a", "2")]
    if transport == "TCP":
        durable.vanish()
        assert receiver.receive().payload == b"gone"
    else:
        durable.close()
    for client in (receiver, sender, late):
        client.close()


versions = [(mqtt.MQTTv31, "v31"), (mqtt.MQTTv311, "v311"), (mqtt.MQTTv5, "v5")]
done = 0
for transport in ("TCP", "TLS", "WS", "WSS"):
    for version, name in versions:
        print(transport, name, flush=True)
        check(transport, version, f"paho-{transport}-{name}")
        done += 1
print(f"{done} of {4 * len(versions)}")
sys.exit(0)
