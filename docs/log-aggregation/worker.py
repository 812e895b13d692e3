"""worker.py PORT NAME FILE: takes records out of the queue and writes them down, one a line."""

import signal
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, name, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
done = open(path, "a", buffering=1)
leaving = left = False


def on_connect(client, userdata, flags, reason, properties):
    client.subscribe("$queue/logs", qos=1)


def on_message(client, userdata, message):
    # Done first, acknowledged after: a worker that dies between the two repeats a record.
    done.write(message.payload.decode() + "\n")
    client.ack(message.mid, message.qos)


def on_unsubscribe(client, userdata, mid, reasons, properties):
    global left
    left = True


def leave(*_):
    global leaving
    leaving = True


client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, manual_ack=True
)
client.on_connect, client.on_message = on_connect, on_message
client.on_unsubscribe = on_unsubscribe
few = Properties(PacketTypes.CONNECT)
few.ReceiveMaximum = 20
signal.signal(signal.SIGTERM, leave)
client.connect("127.0.0.1", port, properties=few, clean_start=True)
while not leaving:
    client.loop(0.1)
# A worker that goes says so first, and finishes what it was given: nobody has to do that again.
client.unsubscribe("$queue/logs")
while not left and client.loop(0.1) == mqtt.MQTT_ERR_SUCCESS:
    pass
client.disconnect()
