// MQTT.js against a broker: every transport, versions 3.1.1 and 5; QoS, retained, will, resume.
'use strict'
const assert = require('assert')
const fs = require('fs')
const mqtt = require('mqtt')

const PATIENCE = 15000
const schemes = { TCP: 'mqtt', TLS: 'mqtts', WS: 'ws', WSS: 'wss' }

function within (promise, what) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error('too late: ' + what)), PATIENCE)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function open (transport, protocolVersion, clientId, more = {}) {
  const path = transport.startsWith('W') ? '/mqtt' : ''
  const url = `${schemes[transport]}://localhost:${process.env[transport]}${path}`
  const options = { protocolVersion, clientId, ca: fs.readFileSync(process.env.CA), ...more }
  const client = mqtt.connect(url, options)
  const inbox = []
  const waiting = []
  client.on('message', (topic, payload, packet) => {
    const message = { topic, text: payload.toString(), qos: packet.qos, retain: packet.retain, packet }
    if (waiting.length) waiting.shift()(message)
    else inbox.push(message)
  })
  client.receive = () => within(
    inbox.length ? Promise.resolve(inbox.shift()) : new Promise(resolve => waiting.push(resolve)),
    'message for ' + clientId
  )
  await within(new Promise((resolve, reject) => {
    client.once('connect', resolve)
    client.once('error', reject)
  }), 'connect ' + clientId)
  return client
}

async function check (transport, version, tag) {
  const receiver = await open(transport, version, tag + '-r')
  const sender = await open(transport, version, tag + '-s')
  await receiver.subscribeAsync(tag + '/#', { qos: 2 })
  for (const qos of [0, 1, 2]) {
    const text = ('q' + qos).repeat(qos ? 20000 : 1)
    await sender.publishAsync(tag + '/t', text, { qos })
    const message = await receiver.receive()
    assert.deepStrictEqual([message.qos, message.text], [qos, text])
  }
  await sender.publishAsync(tag + '/kept', 'kept', { qos: 1, retain: true })
  assert.strictEqual((await receiver.receive()).retain, false)
  const late = await open(transport, version, tag + '-late')
  await late.subscribeAsync(tag + '/kept', { qos: 1 })
  assert.strictEqual((await late.receive()).retain, true)
  const durable = { clean: false, properties: version === 5 ? { sessionExpiryInterval: 300 } : undefined }
  let away = await open(transport, version, tag + '-d', durable)
  await away.subscribeAsync(tag + '/d', { qos: 2 })
  await away.endAsync()
  for (let n = 0; n < 10; n++) await sender.publishAsync(tag + '/d', String(n), { qos: 1 + n % 2 })
  const will = { topic: tag + '/will', payload: Buffer.from('gone'), qos: 1 }
  away = await open(transport, version, tag + '-d', { ...durable, will })
  // The library shows a QoS 2 message when it is released, so order is per QoS.
  const order = []
  for (let n = 0; n < 10; n++) {
    order.push(Number((await away.receive()).text))
    await receiver.receive()
  }
  assert.deepStrictEqual(order.filter(n => n % 2 === 0), [0, 2, 4, 6, 8])
  assert.deepStrictEqual(order.filter(n => n % 2 === 1), [1, 3, 5, 7, 9])
  away.options.reconnectPeriod = 0
  away.stream.destroy()
  assert.strictEqual((await receiver.receive()).text, 'gone')
  if (version === 5) {
    const properties = {
      responseTopic: 'reply/here',
      correlationData: Buffer.from('42'),
      userProperties: { a: ['1', '2'] }
    }
    await sender.publishAsync(tag + '/request', '?', { qos: 1, properties })
    const got = (await receiver.receive()).packet.properties
    assert.strictEqual(got.responseTopic, 'reply/here')
    assert.strictEqual(got.correlationData.toString(), '42')
    assert.deepStrictEqual([...got.userProperties.a], ['1', '2'])
  }
  for (const client of [receiver, sender, late, away]) await client.endAsync(true)
}

async function main () {
  let done = 0
  for (const transport of Object.keys(schemes)) {
    for (const version of [4, 5]) {
      console.log(transport, version)
      await check(transport, version, `js-${transport}-${version}`)
      done++
    }
  }
  console.log(`${done} of 8`)
  process.exit(0)
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
