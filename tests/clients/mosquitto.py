"""mosquitto_pub and mosquitto_sub: a process for each subscriber and each publication."""

import asyncio
import json
import os
import re
import subprocess

import contract

VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv5"}
HIDDEN = {
    "cut in flight": "a program that is cut forgets what it has received",
    "reason of UNSUBACK": "mosquitto_sub does not print it",
}


def base(wish):
    host, port = wish.target
    where = ["--unix", host] if wish.transport == "unix" else ["-h", host, "-p", str(port)]
    if wish.is_tls:
        where += ["--cafile", os.environ["CA"]]
    if wish.transport == "mTLS":
        where += ["--cert", os.environ["CERT"], "--key", os.environ["KEY"]]
    return [*where, "-d", "-V", VERSIONS[wish.version]]


def properties(user=(), response_topic=None, correlation=None, expiry=None):
    given = [["user-property", name, value] for name, value in user]
    if response_topic:
        given.append(["response-topic", response_topic])
    if correlation:
        given.append(["correlation-data", correlation.decode()])
    if expiry:
        given.append(["message-expiry-interval", str(expiry)])
    return [word for one in given for word in ("-D", "PUBLISH", *one)]


def message_of(line):
    message = dict(json.loads(line, object_pairs_hook=list))
    more = dict(message.get("properties", []))
    correlation = more.get("correlation-data")
    return contract.Message(
        message["topic"],
        message["payload"] or "",
        message["qos"],
        bool(message["retain"]),
        more.get("user-properties", []),
        more.get("response-topic"),
        correlation.encode() if correlation else None,
        more.get("message-expiry-interval"),
    )


class Mosquitto(contract.Adapter):
    NAME = "mosquitto_pub, mosquitto_sub"
    VERSION = subprocess.run(
        ["mosquitto_sub", "--version"], capture_output=True, text=True
    ).stdout.split()[2]
    MORE_TRANSPORTS = ("mTLS", "unix")

    @staticmethod
    def cannot(version, transport, check):
        if transport in ("WS", "WSS"):
            return "Debian's libmosquitto is built without WebSocket"
        return HIDDEN.get(check)

    def __init__(self, wish):
        super().__init__(wish)
        self.subscriber, self.reading = None, None
        self.inbox, self.granted, self.ended = (asyncio.Queue() for _ in range(3))

    async def open(self):
        wish = self.wish
        if not wish.filter:
            return
        arguments = ["-i", wish.name, "-t", wish.filter, "-q", str(wish.qos), "-F", "%j"]
        if not wish.clean:
            arguments += ["-c"]
            if wish.version == "5":
                arguments += ["-x", str(contract.SESSION_S)]
        if wish.will:
            topic, text = wish.will
            arguments += ["--will-topic", topic, "--will-payload", text, "--will-qos", "1"]
            arguments += ["-C", "1"]
        self.subscriber = await asyncio.create_subprocess_exec(
            *["stdbuf", "-oL", "mosquitto_sub", *base(wish), *arguments],
            stdout=subprocess.PIPE,
            limit=1 << 20,
        )
        self.reading = asyncio.create_task(self.read())
        contract.same(await self.granted.get(), wish.qos)

    async def read(self):
        """Sorts what mosquitto_sub prints: messages, answers."""
        while line := (await self.subscriber.stdout.readline()).decode():
            if line.startswith("{"):
                self.inbox.put_nowait(message_of(line))
            elif granted := re.match(r"Subscribed \(mid: \d+\): (\d+)", line):
                self.granted.put_nowait(int(granted[1]))
            elif ended := re.match(r"Received DISCONNECT \((\d+)\)", line):
                self.ended.put_nowait(int(ended[1]))

    async def run_publisher(self, arguments, text=""):
        program = ["mosquitto_pub", *base(self.wish), *arguments]
        publisher = await asyncio.create_subprocess_exec(
            *program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(
            publisher.communicate(text.encode()), contract.PATIENCE
        )
        contract.same(publisher.returncode, 0)
        return output.decode()

    async def publish(self, topic, payload, qos, retain=False, **more):
        arguments = ["-t", topic, "-q", str(qos), *properties(**more)]
        arguments += ["-m", payload] if payload else ["-n"]
        output = await self.run_publisher(arguments + ["-r"] * retain)
        code = re.search(r"received PUBACK \(Mid: \d+, RC:(\d+)\)", output)
        return int(code[1]) if code else None

    async def publish_all(self, topic, payloads, qos):
        lines = "".join(payload + "\n" for payload in payloads)
        await self.run_publisher(["-t", topic, "-q", str(qos), "-l"], lines)

    async def receive(self):
        return await self.inbox.get()

    async def disconnected(self):
        return await self.ended.get()

    async def cut(self):
        self.subscriber.kill()

    async def close(self):
        if not self.subscriber:
            return
        if self.subscriber.returncode is None:
            await self.end()
        try:
            await asyncio.wait_for(self.subscriber.wait(), 3)
        except asyncio.TimeoutError:
            # It waits for itself for ever if a signal finds it busy.
            self.subscriber.kill()
            await self.subscriber.wait()
        await self.reading

    async def end(self):
        # A signal would end it with "DISCONNECT with Will Message"; the last message wanted
        # does not.
        if self.wish.will:
            await self.publish(self.wish.filter, "the end", 1)
        else:
            self.subscriber.terminate()


if __name__ == "__main__":
    contract.run(Mosquitto)
