// MQTT.js; the contract is that of contract.py.
'use strict'
const assert = require('assert')
const fs = require('fs')
const mqtt = require('mqtt')

const PATIENCE_MS = 60000
const LEVELS = { 3.1: 3, '3.1.1': 4, 5: 5 }
const SCHEMES = { TCP: 'mqtt', TLS: 'mqtts', WS: 'ws', WSS: 'wss' }
const SESSION_S = 300

function within (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error('too late: ' + what)), PATIENCE_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// Values that come, and those who wait for them.
class Inbox {
  constructor () {
    this.values = []
    this.waiting = []
  }

  put (value) {
    if (this.waiting.length) this.waiting.shift()(value)
    else this.values.push(value)
  }

  take (what) {
    if (this.values.length) return Promise.resolve(this.values.shift())
    return within(new Promise(resolve => this.waiting.push(resolve)), what)
  }
}

class Client {
  constructor (version, transport, clientId, { clean = true, will } = {}) {
    const path = transport.startsWith('W') ? '/mqtt' : ''
    const url = `${SCHEMES[transport]}://localhost:${process.env[transport]}${path}`
    this.inbox = new Inbox()
    this.mqtt = mqtt.connect(url, {
      clientId,
      protocolId: version === '3.1' ? 'MQIsdp' : 'MQTT',
      protocolVersion: LEVELS[version],
      ca: fs.readFileSync(process.env.CA),
      clean,
      // Only a Session that goes on has reason to come back.
      reconnectPeriod: clean ? 0 : 10,
      resubscribe: false,
      properties: version === '5' && !clean ? { sessionExpiryInterval: SESSION_S } : undefined,
      will
    })
    this.mqtt.on('message', (topic, payload, packet) => {
      const { qos, retain, properties = {} } = packet
      this.inbox.put({ topic, text: payload.toString(), qos, retain, properties })
    })
    this.disconnected = new Promise(resolve => this.mqtt.once('disconnect', resolve))
    this.connected = new Promise((resolve, reject) => {
      this.mqtt.once('connect', resolve)
      this.mqtt.on('error', reject)
    })
  }

  publish (topic, text, qos, more = {}) {
    return within(this.mqtt.publishAsync(topic, text, { qos, ...more }), 'publication')
  }

  receive () {
    return this.inbox.take('message')
  }

  cut () {
    this.mqtt.stream.destroy()
  }

  async close () {
    if (this.mqtt.connected) await within(this.mqtt.endAsync(), 'end')
    else await this.mqtt.endAsync(true)
  }
}

// One check in one version over one transport: its topic and its clients.
class Stage {
  constructor (version, transport, check) {
    Object.assign(this, { version, transport, clients: [] })
    this.topic = `MQTT.js/${version}/${transport}/${check}`.replaceAll(' ', '-')
  }

  async open (name, filter, qos, options) {
    const client = new Client(this.version, this.transport, `${this.topic}/${name}`, options)
    this.clients.push(client)
    client.present = (await within(client.connected, 'connection')).sessionPresent
    if (filter) {
      const granted = await within(client.mqtt.subscribeAsync(filter, { qos }), 'subscription')
      assert.strictEqual(granted[0].qos, qos)
    }
    return client
  }
}

async function receiveUntil (client, text) {
  const messages = []
  for (;;) {
    const message = await client.receive()
    if (message.text === text) return messages
    messages.push(message)
  }
}

function texts (messages, qos) {
  return messages.filter(message => message.qos === qos).map(message => message.text)
}

function numbers (from, to, step = 1) {
  const all = []
  for (let n = from; n < to; n += step) all.push(String(n))
  return all
}

async function qos (stage, level) {
  const receiver = await stage.open('r', stage.topic, 2)
  const sender = await stage.open('s')
  for (const text of ['small', 'large'.repeat(level ? 10000 : 2)]) {
    await sender.publish(stage.topic, text, level)
    const message = await receiver.receive()
    assert.deepStrictEqual([message.qos, message.text, message.topic], [level, text, stage.topic])
  }
}

async function retained (stage) {
  const expect = async (client, text, retain) => {
    const message = await client.receive()
    assert.deepStrictEqual([message.text, message.retain], [text, retain])
  }
  const early = await stage.open('early', stage.topic, 1)
  const sender = await stage.open('s')
  await sender.publish(stage.topic, 'kept', 1, { retain: true })
  await expect(early, 'kept', false)
  await expect(await stage.open('late', stage.topic, 1), 'kept', true)
  await sender.publish(stage.topic, '', 1, { retain: true })
  const after = await stage.open('after', stage.topic, 1)
  await sender.publish(stage.topic, 'live', 1)
  await expect(after, 'live', false)
}

async function will (stage) {
  const will = text => ({ will: { topic: stage.topic, payload: Buffer.from(text), qos: 1 } })
  const watcher = await stage.open('watcher', stage.topic, 1)
  const calm = await stage.open('calm', null, 0, will('disconnected'))
  await calm.close()
  const gone = await stage.open('gone', null, 0, will('cut'))
  gone.cut()
  const message = await watcher.receive()
  assert.deepStrictEqual([message.text, message.qos], ['cut', 1])
}

async function sessionResumed (stage) {
  let durable = await stage.open('d', stage.topic, 2, { clean: false })
  assert(!durable.present)
  await durable.close()
  const sender = await stage.open('s')
  for (const n of numbers(0, 20)) await sender.publish(stage.topic, n, 1 + n % 2)
  durable = await stage.open('d', null, 0, { clean: false })
  // MQTT 3.1 has no such flag.
  assert(durable.present || stage.version === '3.1')
  await sender.publish(stage.topic, 'end', 2)
  // The library shows a QoS 2 message when it is released, so order is per QoS.
  const messages = await receiveUntil(durable, 'end')
  assert.deepStrictEqual(texts(messages, 1), numbers(0, 20, 2))
  assert.deepStrictEqual(texts(messages, 2), numbers(1, 20, 2))
}

async function cutInFlight (stage) {
  const durable = await stage.open('d', stage.topic, 2, { clean: false })
  const sender = await stage.open('s')
  const send = async () => {
    for (const n of numbers(0, 60)) await sender.publish(stage.topic, n, 1 + n % 2)
    await sender.publish(stage.topic, 'end', 2)
  }
  const sending = send()
  let messages = []
  for (let round = 0; round < 2; round++) {
    for (let n = 0; n < 10; n++) messages.push(await durable.receive())
    const back = new Promise(resolve => durable.mqtt.once('connect', resolve))
    durable.cut()
    await within(back, 'reconnection')
  }
  messages = messages.concat(await receiveUntil(durable, 'end'))
  await sending
  assert.deepStrictEqual([...new Set(texts(messages, 1))].sort(), numbers(0, 60, 2).sort())
  assert.deepStrictEqual(texts(messages, 2).sort(), numbers(1, 60, 2).sort())
}

async function sharedSubscription (stage) {
  const filter = `$share/g/${stage.topic}`
  const members = [await stage.open('m1', filter, 1), await stage.open('m2', filter, 1)]
  const sender = await stage.open('s')
  for (const n of numbers(0, 20)) await sender.publish(stage.topic, n, 1)
  const got = []
  for (const member of members) {
    for (let n = 0; n < 10; n++) got.push((await member.receive()).text)
  }
  assert.deepStrictEqual(got.sort(), numbers(0, 20).sort())
  // What comes next is new: no member holds a second copy.
  for (let n = 0; n < 2; n++) await sender.publish(stage.topic, 'end', 1)
  for (const member of members) assert.strictEqual((await member.receive()).text, 'end')
}

async function userProperties (stage) {
  const receiver = await stage.open('r', stage.topic, 1)
  const sender = await stage.open('s')
  const userProperties = { a: ['1', '2'], größe: 'ß' }
  await sender.publish(stage.topic, 'x', 1, { properties: { userProperties } })
  const got = (await receiver.receive()).properties
  assert.deepStrictEqual({ ...got.userProperties }, userProperties)
}

async function requestAndResponse (stage) {
  const responseTopic = stage.topic + '/answers'
  const correlationData = Buffer.from('4,2')
  const asker = await stage.open('asker', responseTopic, 1)
  const answerer = await stage.open('answerer', stage.topic, 1)
  const sender = await stage.open('s')
  await sender.publish(stage.topic, '?', 1, { properties: { responseTopic, correlationData } })
  const request = (await answerer.receive()).properties
  assert.strictEqual(request.responseTopic, responseTopic)
  const properties = { correlationData: request.correlationData }
  await sender.publish(request.responseTopic, '!', 1, { properties })
  assert((await asker.receive()).properties.correlationData.equals(correlationData))
}

async function messageExpiry (stage) {
  const publish = (n, text, messageExpiryInterval, retain) => {
    const more = { retain, properties: { messageExpiryInterval } }
    return sender.publish(`${stage.topic}/${n}`, text, 1, more)
  }
  const sender = await stage.open('s')
  await publish(1, 'stale', 1, true)
  await publish(2, 'fresh', 100, true)
  // Time itself is what is waited for.
  await new Promise(resolve => setTimeout(resolve, 2000))
  const receiver = await stage.open('r', stage.topic + '/+', 1)
  const expect = async (text, least, most) => {
    const message = await receiver.receive()
    const interval = message.properties.messageExpiryInterval
    assert.strictEqual(message.text, text)
    assert(least <= interval && interval <= most, String(interval))
  }
  await expect('fresh', 50, 98)
  await publish(3, 'live', 100, false)
  await expect('live', 50, 100)
}

async function reasonOfPuback (stage) {
  const sender = await stage.open('s')
  const pubacks = new Inbox()
  sender.mqtt.on('packetreceive', packet => packet.cmd === 'puback' && pubacks.put(packet))
  const code = async text => {
    await sender.publish(stage.topic, text, 1)
    return (await pubacks.take('PUBACK')).reasonCode
  }
  assert.strictEqual(await code('nobody'), 0x10)
  await stage.open('r', stage.topic, 1)
  assert(!await code('somebody'))
}

async function reasonOfUnsuback (stage) {
  const client = await stage.open('r', stage.topic, 1)
  const codes = async () => {
    return (await within(client.mqtt.unsubscribeAsync(stage.topic), 'UNSUBACK')).granted
  }
  assert.deepStrictEqual(await codes(), [0])
  assert.deepStrictEqual(await codes(), [0x11])
}

async function reasonOfDisconnect (stage) {
  const first = await stage.open('same', stage.topic, 1)
  await stage.open('same', stage.topic, 1)
  assert.strictEqual((await within(first.disconnected, 'DISCONNECT')).reasonCode, 0x8E)
}

const CHECKS = {
  'QoS 0': stage => qos(stage, 0),
  'QoS 1': stage => qos(stage, 1),
  'QoS 2': stage => qos(stage, 2),
  retained,
  will,
  'session resumed': sessionResumed,
  'cut in flight': cutInFlight,
  'shared subscription': sharedSubscription
}
const CHECKS_OF_5 = {
  'User Properties': userProperties,
  'request and response': requestAndResponse,
  'message expiry': messageExpiry,
  'reason of PUBACK': reasonOfPuback,
  'reason of UNSUBACK': reasonOfUnsuback,
  'reason of DISCONNECT': reasonOfDisconnect
}

async function check (version, transport, name, test) {
  const stage = new Stage(version, transport, name)
  try {
    try {
      await test(stage)
    } finally {
      for (const client of stage.clients) await client.close()
    }
    console.log('ok', version, transport, name)
  } catch (error) {
    console.log('not ok', version, transport, name + ':', String(error).replaceAll('\n', ' '))
  }
}

async function column (version, transport) {
  const waiting = []
  const checks = { ...CHECKS, ...(version === '5' ? CHECKS_OF_5 : {}) }
  for (const [name, test] of Object.entries(checks)) {
    const checking = check(version, transport, name, test)
    // The one that waits for time does so beside the others.
    if (name === 'message expiry') waiting.push(checking)
    else await checking
  }
  await Promise.all(waiting)
}

async function main () {
  console.log('client', 'MQTT.js', require('mqtt/package.json').version)
  const columns = []
  for (const version of Object.keys(LEVELS)) {
    for (const transport of Object.keys(SCHEMES)) columns.push(column(version, transport))
  }
  await Promise.all(columns)
  process.exit(0)
}

main()
