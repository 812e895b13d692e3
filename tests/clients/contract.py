"""The checks that a client of Python passes; each library has an adapter that calls `run`.

Every client program, in whatever language, keeps the same contract. Its environment names the
broker's ports (TCP, TLS, WS, WSS, MTLS), socket (UNIX), the authority (CA) and a Client's
certificate (CERT, KEY). It prints who it is, then a line for each version, transport and check:

    client paho-mqtt 2.1.0
    ok 5 TLS will
    not ok 5 WS will: nothing came in 60 s
    skip 5 TCP reason of PUBACK: the library does not show it

That something does not arrive is shown by something sent later that does.
"""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field

PATIENCE = 60
VERSIONS = ("3.1", "3.1.1", "5")
TRANSPORTS = ("TCP", "TLS", "WS", "WSS")
SESSION_S = 300


@dataclass
class Message:
    topic: str
    text: str
    qos: int
    retain: bool
    user: list = field(default_factory=list)
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry: int | None = None


@dataclass
class Wish:
    """What a check wants of a client; an adapter's constructor gets it."""

    version: str
    transport: str
    name: str
    filter: str | None = None
    qos: int = 0
    # Whether the Session begins anew, and ends with the connection.
    clean: bool = True
    # Whether the subscription is in the Session already.
    resumes: bool = False
    # Topic and text.
    will: tuple | None = None

    @property
    def target(self):
        """Host and port; for a unix socket its path and a number that means nothing."""
        if self.transport == "unix":
            return os.environ["UNIX"], 1
        return "localhost", int(os.environ[self.transport.upper()])

    @property
    def is_tls(self):
        return self.transport in ("TLS", "mTLS", "WSS")

    @property
    def is_websocket(self):
        return self.transport in ("WS", "WSS")


def cut(descriptor):
    """Ends a connection below the library: no DISCONNECT, no TLS close."""
    with socket.socket(fileno=os.dup(descriptor)) as double:
        double.shutdown(socket.SHUT_RDWR)


def same(got, expected):
    assert got == expected, f"{got!r:.200}, not {expected!r:.200}"


class Stage:
    """One check in one version over one transport: its topic and its clients."""

    def __init__(self, adapter, version, transport, check):
        self.adapter, self.version, self.transport = adapter, version, transport
        self.topic = f"{adapter.NAME}/{version}/{transport}/{check}".replace(" ", "-")
        self.clients = []

    async def open(self, name, filter=None, qos=0, **more):
        wish = Wish(self.version, self.transport, f"{self.topic}/{name}", filter, qos, **more)
        client = self.adapter(wish)
        self.clients.append(client)
        await asyncio.wait_for(client.open(), PATIENCE)
        return client

    async def close(self):
        for client in self.clients:
            await asyncio.wait_for(client.close(), PATIENCE)


async def receive(client):
    try:
        return await asyncio.wait_for(client.receive(), PATIENCE)
    except asyncio.TimeoutError:
        raise AssertionError(f"nothing came in {PATIENCE} s") from None


async def receive_until(client, text):
    messages = []
    while not messages or messages[-1].text != text:
        messages.append(await receive(client))
    return messages[:-1]


def texts(messages, qos):
    return [message.text for message in messages if message.qos == qos]


async def qos(stage, level):
    receiver = await stage.open("r", stage.topic, 2)
    sender = await stage.open("s")
    for text in ("small", "large" * (10000 if level else 2)):
        await sender.publish(stage.topic, text, level)
        message = await receive(receiver)
        same((message.qos, message.text, message.topic), (level, text, stage.topic))


async def retained(stage):
    early = await stage.open("early", stage.topic, 1)
    sender = await stage.open("s")
    await sender.publish(stage.topic, "kept", 1, retain=True)
    message = await receive(early)
    same((message.text, message.retain), ("kept", False))
    late = await stage.open("late", stage.topic, 1)
    message = await receive(late)
    same((message.text, message.retain), ("kept", True))
    await sender.publish(stage.topic, "", 1, retain=True)
    after = await stage.open("after", stage.topic, 1)
    await sender.publish(stage.topic, "live", 1)
    message = await receive(after)
    same((message.text, message.retain), ("live", False))


async def will(stage):
    watcher = await stage.open("watcher", stage.topic, 1)
    calm = await stage.open("calm", f"{stage.topic}/1", will=(stage.topic, "disconnected"))
    await calm.close()
    gone = await stage.open("gone", f"{stage.topic}/2", will=(stage.topic, "cut"))
    await gone.cut()
    message = await receive(watcher)
    same((message.text, message.qos), ("cut", 1))


async def session_resumed(stage):
    durable = await stage.open("d", stage.topic, 2, clean=False)
    assert not durable.session_present
    await durable.close()
    sender = await stage.open("s")
    expected = {1: [], 2: []}
    for block in range(4):
        level = 1 + block % 2
        numbers = [str(5 * block + n) for n in range(5)]
        expected[level] += numbers
        await sender.publish_all(stage.topic, numbers, level)
    durable = await stage.open("d", stage.topic, 2, clean=False, resumes=True)
    # None where there is no such flag, or the library hides it.
    assert durable.session_present in (True, None)
    await sender.publish(stage.topic, "end", 2)
    # Libraries show a QoS 2 message when it is released, so order is per QoS.
    messages = await receive_until(durable, "end")
    same({level: texts(messages, level) for level in (1, 2)}, expected)


async def cut_in_flight(stage):
    durable = await stage.open("d", stage.topic, 2, clean=False)
    sender = await stage.open("s")
    numbers = [str(n) for n in range(60)]

    async def send():
        for number in numbers:
            await sender.publish(stage.topic, number, 1 + int(number) % 2)
        await sender.publish(stage.topic, "end", 2)

    sending = asyncio.create_task(send())
    messages = []
    for _ in range(2):
        messages += [await receive(durable) for _ in range(10)]
        await durable.cut()
        await asyncio.wait_for(durable.reconnect(), PATIENCE)
    messages += await receive_until(durable, "end")
    await sending
    same(sorted(set(texts(messages, 1))), sorted(numbers[0::2]))
    same(sorted(texts(messages, 2)), sorted(numbers[1::2]))


async def shared_subscription(stage):
    members = [await stage.open(f"m{n}", f"$share/g/{stage.topic}", 1) for n in range(2)]
    sender = await stage.open("s")
    numbers = [str(n) for n in range(20)]
    await sender.publish_all(stage.topic, numbers, 1)
    parts = [[(await receive(member)).text for _ in range(10)] for member in members]
    same(sorted(parts[0] + parts[1]), sorted(numbers))
    # What comes next is new: no member holds a second copy.
    await sender.publish_all(stage.topic, ["end", "end"], 1)
    same([(await receive(member)).text for member in members], ["end", "end"])


async def user_properties(stage):
    receiver = await stage.open("r", stage.topic, 1)
    sender = await stage.open("s")
    pairs = [("a", "1"), ("a", "2"), ("größe", "ß")]
    await sender.publish(stage.topic, "x", 1, user=pairs)
    same((await receive(receiver)).user, pairs)


async def request_and_response(stage):
    answers = f"{stage.topic}/answers"
    asker = await stage.open("asker", answers, 1)
    answerer = await stage.open("answerer", stage.topic, 1)
    sender = await stage.open("s")
    await sender.publish(stage.topic, "?", 1, response_topic=answers, correlation=b"4,2")
    request = await receive(answerer)
    same((request.response_topic, request.correlation), (answers, b"4,2"))
    await sender.publish(request.response_topic, "!", 1, correlation=request.correlation)
    answer = await receive(asker)
    same((answer.text, answer.correlation), ("!", b"4,2"))


async def message_expiry(stage):
    sender = await stage.open("s")
    await sender.publish(f"{stage.topic}/1", "stale", 1, retain=True, expiry=1)
    await sender.publish(f"{stage.topic}/2", "fresh", 1, retain=True, expiry=100)
    # Time itself is what is waited for.
    await asyncio.sleep(2)
    receiver = await stage.open("r", f"{stage.topic}/+", 1)
    message = await receive(receiver)
    assert message.text == "fresh" and 50 <= message.expiry <= 98, message
    await sender.publish(f"{stage.topic}/3", "live", 1, expiry=100)
    message = await receive(receiver)
    assert message.text == "live" and 50 <= message.expiry <= 100, message


async def reason_of_puback(stage):
    sender = await stage.open("s")
    same(await sender.publish(stage.topic, "nobody", 1), 0x10)
    await stage.open("r", stage.topic, 1)
    same(await sender.publish(stage.topic, "somebody", 1), 0)


async def reason_of_unsuback(stage):
    client = await stage.open("r", stage.topic, 1)
    same(await client.unsubscribe(stage.topic), 0)
    same(await client.unsubscribe(stage.topic), 0x11)


async def reason_of_disconnect(stage):
    first = await stage.open("same", stage.topic, 1)
    await stage.open("same", stage.topic, 1)
    same(await asyncio.wait_for(first.disconnected(), PATIENCE), 0x8E)


CHECKS = {
    "QoS 0": lambda stage: qos(stage, 0),
    "QoS 1": lambda stage: qos(stage, 1),
    "QoS 2": lambda stage: qos(stage, 2),
    "retained": retained,
    "will": will,
    "session resumed": session_resumed,
    "cut in flight": cut_in_flight,
    "shared subscription": shared_subscription,
}
CHECKS_OF_5 = {
    "User Properties": user_properties,
    "request and response": request_and_response,
    "message expiry": message_expiry,
    "reason of PUBACK": reason_of_puback,
    "reason of UNSUBACK": reason_of_unsuback,
    "reason of DISCONNECT": reason_of_disconnect,
}


def say(*words):
    print(*words, flush=True)


async def check(adapter, version, transport, name, test):
    stage = Stage(adapter, version, transport, name)
    try:
        try:
            await test(stage)
        finally:
            await stage.close()
        say("ok", version, transport, name)
    except Exception as error:
        why = f"{type(error).__name__} {error}".replace("\n", " ")
        say("not ok", version, transport, f"{name}: {why}")


async def column(adapter, version, transport):
    checks = CHECKS | (CHECKS_OF_5 if version == "5" else {})
    waiting = []
    for name, test in checks.items():
        why = adapter.cannot(version, transport, name)
        if why:
            say("skip", version, transport, f"{name}: {why}")
            continue
        checking = asyncio.create_task(check(adapter, version, transport, name, test))
        # The one that waits for time does so beside the others.
        if name == "message expiry":
            waiting.append(checking)
        else:
            await checking
    await asyncio.gather(*waiting)


async def all_columns(adapter):
    say("client", adapter.NAME, adapter.VERSION)
    transports = TRANSPORTS + adapter.MORE_TRANSPORTS
    columns = [column(adapter, v, t) for v in VERSIONS for t in transports]
    await asyncio.gather(*columns)


class Adapter:
    """What adapters share. `open` connects and subscribes; `publish` waits for the answer."""

    MORE_TRANSPORTS = ()

    def __init__(self, wish):
        self.wish = wish
        self.session_present = None

    async def publish_all(self, topic, payloads, qos):
        for payload in payloads:
            await self.publish(topic, payload, qos)

    async def reconnect(self):
        """For libraries that do not by themselves."""


def run(adapter):
    asyncio.run(all_columns(adapter))
    sys.stdout.flush()
    # Libraries' threads have nothing left to do.
    os._exit(0)
