"""source.py PORT FIRST COUNT: writes log records by paho."""

import sys

import paho.mqtt.client as mqtt

port, first, count = map(int, sys.argv[1:4])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="python", protocol=mqtt.MQTTv5)
client.max_inflight_messages_set(100)
client.max_queued_messages_set(0)
client.connect("127.0.0.1", port)
client.loop_start()
sent = [client.publish("logs/python", f"record {n}", qos=1) for n in range(first, first + count)]
for record in sent:
    record.wait_for_publish()
client.disconnect()
client.loop_stop()
