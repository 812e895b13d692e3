"""gmqtt: an MQTT of its own for asyncio."""

import asyncio
import contextlib
import ssl
from importlib.metadata import version

import contract
import gmqtt
from gmqtt.mqtt.constants import MQTTv311, MQTTv50
from gmqtt.storage import PersistentStorage
from paho_mqtt import tls

HIDDEN = {
    "cut in flight": "the library shows a QoS 2 message as often as it is sent",
    "reason of PUBACK": "the library does not show it",
}


class Gmqtt(contract.Adapter):
    NAME, VERSION = "gmqtt", version("gmqtt")

    @staticmethod
    def cannot(version, transport, check):
        if version == "3.1":
            return "the library speaks 3.1.1 and 5"
        if transport in ("WS", "WSS"):
            return "the library has no WebSocket"
        return HIDDEN.get(check)

    def __init__(self, wish):
        super().__init__(wish)
        loop = asyncio.get_running_loop()
        self.inbox, self.ended = asyncio.Queue(), loop.create_future()
        self.answers = asyncio.Queue()
        # What is published and not acknowledged yet.
        self.unacknowledged = PersistentStorage()
        properties = {}
        if wish.version == "5" and not wish.clean:
            properties = {"session_expiry_interval": contract.SESSION_S}
        will = gmqtt.Message(*wish.will, qos=1, will_delay_interval=0) if wish.will else None
        self.mqtt = gmqtt.Client(
            wish.name,
            clean_session=wish.clean,
            will_message=will,
            persistent_storage=self.unacknowledged,
            **properties,
        )
        # Never again by itself; 0 would be once, and -1 for ever.
        self.mqtt.set_config({"reconnect_retries": -2})
        self.mqtt.on_connect = self.on_connect
        self.mqtt.on_message = self.on_message
        self.mqtt.on_subscribe = lambda c, mid, codes, p: self.answers.put_nowait(codes[0])
        self.mqtt.on_unsubscribe = lambda c, mid, codes: self.answers.put_nowait(codes[0])
        self.mqtt.on_disconnect = self.on_disconnect

    def on_connect(self, client, flags, code, properties):
        self.session_present = bool(flags)

    def on_message(self, client, topic, payload, qos, properties):
        def first(name):
            return properties.get(name, [None])[0]

        correlation = first("correlation_data")
        self.inbox.put_nowait(
            contract.Message(
                topic,
                payload.decode(),
                qos,
                bool(properties["retain"]),
                properties.get("user_property", []),
                first("response_topic"),
                correlation.encode() if isinstance(correlation, str) else correlation,
                first("message_expiry_interval"),
            )
        )
        return 0

    def on_disconnect(self, client, packet, error=None):
        if not self.ended.done():
            self.ended.set_result(packet[0] if packet else 0)

    async def open(self):
        wish = self.wish
        host, port = wish.target
        await self.mqtt.connect(
            host,
            port,
            ssl=tls(wish) if wish.is_tls else False,
            version=MQTTv50 if wish.version == "5" else MQTTv311,
        )
        if wish.filter and not wish.resumes:
            self.mqtt.subscribe(wish.filter, wish.qos)
            contract.same(await self.answers.get(), wish.qos)

    async def publish(
        self, topic, payload, qos, retain=False,
        user=(), response_topic=None, correlation=None, expiry=None,
    ):
        properties = {
            "user_property": list(user),
            "response_topic": response_topic,
            "correlation_data": correlation,
            "message_expiry_interval": expiry,
        }
        properties = {name: value for name, value in properties.items() if value}
        self.mqtt.publish(topic, payload, qos, retain, **properties)
        await asyncio.wait_for(self.unacknowledged.wait_empty(), contract.PATIENCE)

    async def receive(self):
        return await self.inbox.get()

    async def unsubscribe(self, filter):
        self.mqtt.unsubscribe(filter)
        return await asyncio.wait_for(self.answers.get(), contract.PATIENCE)

    async def disconnected(self):
        return await self.ended

    async def cut(self):
        transport = self.mqtt._connection._transport
        contract.cut(transport.get_extra_info("socket").fileno())

    async def close(self):
        # asyncio complains when the broker still sends something while TLS is closed.
        with contextlib.suppress(ssl.SSLError):
            if self.mqtt.is_connected:
                await self.mqtt.disconnect()


if __name__ == "__main__":
    contract.run(Gmqtt)
