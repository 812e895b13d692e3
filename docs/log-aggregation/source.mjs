// node source.mjs PORT FIRST COUNT: writes log records by MQTT.js, which NODE_PATH may lead to.
import { createRequire } from "node:module";

const mqtt = createRequire(import.meta.url)("mqtt");
const [port, first, count] = process.argv.slice(2).map(Number);
const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { clientId: "node", protocolVersion: 4 });
const AT_ONCE = 100;
for (let at = first; at < first + count; at += AT_ONCE) {
  const records = [];
  for (let n = at; n < Math.min(at + AT_ONCE, first + count); n++) {
    records.push(client.publishAsync("logs/node", `record ${n}`, { qos: 1 }));
  }
  await Promise.all(records);
}
await client.endAsync();
