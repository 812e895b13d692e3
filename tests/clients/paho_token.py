"""paho with a password, such as a token: paho_token.py PORT PASSWORD"""

import queue
import sys

import paho.mqtt.client as mqtt

heard = queue.Queue()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "paho-token", protocol=mqtt.MQTTv5)
client.username_pw_set("anybody", sys.argv[2])
client.on_connect = lambda _c, _u, _f, reason, _p: heard.put(reason.value)
client.on_subscribe = lambda _c, _u, _m, reasons, _p: heard.put(reasons[0].value)
client.on_message = lambda _c, _u, message: heard.put(message.topic)
client.on_publish = lambda _c, _u, _m, reason, _p: heard.put(reason.value)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_start()
assert heard.get(timeout=10) == 0
client.subscribe("up/+", qos=1)
assert heard.get(timeout=10) == 1
client.publish("up/mine", "x", qos=1)
both = [heard.get(timeout=10), heard.get(timeout=10)]
assert sorted(map(str, both)) == ["0", "up/mine"], both
client.publish("down/x", "x", qos=1)
print(f"received up/mine; denied down/x {heard.get(timeout=10):#x}")
client.disconnect()
client.loop_stop()
