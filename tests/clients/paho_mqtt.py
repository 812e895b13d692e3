"""paho-mqtt, the library that most Python programs use."""

import asyncio
import os
import ssl
from importlib.metadata import version

import contract
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PROTOCOLS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}


def tls(wish):
    context = ssl.create_default_context(cafile=os.environ["CA"])
    if wish.transport == "mTLS":
        context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])
    return context


def publish_properties(user=(), response_topic=None, correlation=None, expiry=None):
    properties = Properties(PacketTypes.PUBLISH)
    if user:
        properties.UserProperty = user
    if response_topic:
        properties.ResponseTopic = response_topic
    if correlation:
        properties.CorrelationData = correlation
    if expiry:
        properties.MessageExpiryInterval = expiry
    return properties


def connect_properties(wish):
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0 if wish.clean else contract.SESSION_S
    return properties


def message_of(message):
    properties = getattr(message, "properties", None)
    return contract.Message(
        str(message.topic),
        message.payload.decode(),
        message.qos,
        bool(message.retain),
        list(getattr(properties, "UserProperty", [])),
        getattr(properties, "ResponseTopic", None),
        getattr(properties, "CorrelationData", None),
        getattr(properties, "MessageExpiryInterval", None),
    )


class Paho(contract.Adapter):
    NAME, VERSION = "paho-mqtt", version("paho-mqtt")
    MORE_TRANSPORTS = ("mTLS", "unix")

    @staticmethod
    def cannot(version, transport, check):
        if check == "reason of DISCONNECT":
            return "the library reads it only if properties follow"
        return None

    def __init__(self, wish):
        super().__init__(wish)
        self.loop = asyncio.get_running_loop()
        self.inbox = asyncio.Queue()
        # Answers by Packet Identifier.
        self.answers = {}
        self.connected, self.ended = self.loop.create_future(), self.loop.create_future()
        transport = "websockets" if wish.is_websocket else "tcp"
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=wish.name,
            protocol=PROTOCOLS[wish.version],
            transport="unix" if wish.transport == "unix" else transport,
            clean_session=None if wish.version == "5" else wish.clean,
            # Only a Session that goes on has reason to come back.
            reconnect_on_failure=not wish.clean,
        )
        self.mqtt.connect_timeout = contract.PATIENCE
        self.mqtt.reconnect_delay_set(min_delay=0.01, max_delay=0.01)
        if wish.is_tls:
            self.mqtt.tls_set_context(tls(wish))
        if wish.is_websocket:
            self.mqtt.ws_set_options(path="/mqtt")
        if wish.will:
            self.mqtt.will_set(*wish.will, qos=1)
        self.listen()

    def listen(self):
        def later(function):
            # The library's thread calls back; the loop's thread acts.
            return lambda *arguments: self.loop.call_soon_threadsafe(function, *arguments)

        self.mqtt.on_message = later(lambda c, u, m: self.inbox.put_nowait(message_of(m)))
        self.mqtt.on_connect = later(lambda c, u, flags, code, p: self.on_connect(flags, code))
        self.mqtt.on_disconnect = later(lambda c, u, f, code, p: self.on_disconnect(code))
        self.mqtt.on_publish = later(lambda c, u, mid, code, p: self.answer(mid, code.value))
        self.mqtt.on_subscribe = later(lambda c, u, mid, codes, p: self.answer(mid, codes[0].value))
        self.mqtt.on_unsubscribe = later(
            lambda c, u, mid, codes, p: self.answer(mid, codes[0].value if codes else 0)
        )

    def on_connect(self, flags, code):
        if not self.connected.done():
            self.connected.set_result((flags.session_present, code))

    def on_disconnect(self, code):
        if not self.ended.done():
            self.ended.set_result(code.value)

    def answer(self, mid, code):
        self.answers.pop(mid).set_result(code)

    async def answered(self, result):
        # Registered before the loop can run the answer.
        future = self.answers[result] = self.loop.create_future()
        return await asyncio.wait_for(future, contract.PATIENCE)

    async def open(self):
        wish = self.wish
        more = {}
        if wish.version == "5":
            more = {"clean_start": wish.clean, "properties": connect_properties(wish)}
        self.mqtt.connect(*wish.target, keepalive=30, **more)
        self.mqtt.loop_start()
        present, code = await self.connected
        assert not code.is_failure, code
        # MQTT 3.1 has no such flag.
        self.session_present = None if wish.version == "3.1" else present
        if wish.filter and not wish.resumes:
            result, mid = self.mqtt.subscribe(wish.filter, wish.qos)
            contract.same(await self.answered(mid), wish.qos)

    async def publish(self, topic, payload, qos, retain=False, **more):
        properties = publish_properties(**more) if more else None
        info = self.mqtt.publish(topic, payload, qos, retain, properties)
        return await self.answered(info.mid)

    async def receive(self):
        return await self.inbox.get()

    async def unsubscribe(self, filter):
        result, mid = self.mqtt.unsubscribe(filter)
        return await self.answered(mid)

    async def disconnected(self):
        return await self.ended

    async def cut(self):
        contract.cut(self.mqtt.socket().fileno())

    async def close(self):
        self.mqtt.disconnect()
        await self.loop.run_in_executor(None, self.mqtt.loop_stop)


if __name__ == "__main__":
    contract.run(Paho)
