"""aiomqtt: paho-mqtt for asyncio, with its own ideas of connecting and of waiting."""

from importlib.metadata import version

import aiomqtt
import contract
from paho_mqtt import connect_properties, message_of, publish_properties, tls

PROTOCOLS = {
    "3.1": aiomqtt.ProtocolVersion.V31,
    "3.1.1": aiomqtt.ProtocolVersion.V311,
    "5": aiomqtt.ProtocolVersion.V5,
}
HIDDEN = {
    "reason of PUBACK": "publish() does not return it",
    "reason of UNSUBACK": "unsubscribe() does not return it",
    "reason of DISCONNECT": "paho-mqtt reads it only if properties follow",
}


class Aiomqtt(contract.Adapter):
    NAME, VERSION = "aiomqtt", version("aiomqtt")

    @staticmethod
    def cannot(version, transport, check):
        return HIDDEN.get(check)

    def __init__(self, wish):
        super().__init__(wish)
        host, port = wish.target
        is_5 = wish.version == "5"
        self.is_open = False
        self.early = []
        self.mqtt = aiomqtt.Client(
            host,
            port,
            identifier=wish.name,
            protocol=PROTOCOLS[wish.version],
            transport="websockets" if wish.is_websocket else "tcp",
            websocket_path="/mqtt" if wish.is_websocket else None,
            tls_context=tls(wish) if wish.is_tls else None,
            clean_session=None if is_5 else wish.clean,
            clean_start=wish.clean if is_5 else 3,
            properties=connect_properties(wish) if is_5 else None,
            will=aiomqtt.Will(*wish.will, qos=1) if wish.will else None,
            timeout=contract.PATIENCE,
        )
        self.mqtt._client.connect_timeout = contract.PATIENCE

    async def open(self):
        # Whether the Session was there is not shown.
        await self.mqtt.__aenter__()
        self.is_open = True
        if self.wish.filter and not self.wish.resumes:
            granted = await self.mqtt.subscribe(self.wish.filter, self.wish.qos)
            contract.same(int(getattr(granted[0], "value", granted[0])), self.wish.qos)

    async def publish(self, topic, payload, qos, retain=False, **more):
        properties = publish_properties(**more) if more else None
        await self.mqtt.publish(topic, payload, qos, retain, properties)

    async def receive(self):
        if self.early:
            return self.early.pop(0)
        return message_of(await anext(self.mqtt.messages))

    async def cut(self):
        contract.cut(self.mqtt._client.socket().fileno())

    async def reconnect(self):
        # What came before the cut was seen is still to be shown.
        try:
            async for message in self.mqtt.messages:
                self.early.append(message_of(message))
        except aiomqtt.MqttError:
            await self.mqtt.__aexit__(None, None, None)
        await self.mqtt.__aenter__()

    async def close(self):
        if self.is_open:
            self.is_open = False
            await self.mqtt.__aexit__(None, None, None)


if __name__ == "__main__":
    contract.run(Aiomqtt)
