//! Packets to bytes, also wrong ones: what is written is sent.

use crate::packet::{Kind, PROPERTIES, Packet, Property, Value, Version, row};

/// The bytes of a packet. Properties and Reason Codes that a version does not have are left out.
pub fn encode(packet: &Packet, version: Version) -> Vec<u8> {
    let (name, kind, _) = row(packet.name).unwrap();
    let mut body = vec![];
    let default_flags = match *name {
        "CONNECT" => {
            connect(packet, version, &mut body);
            0
        }
        "PUBLISH" => publish(packet, version, &mut body),
        "SUBSCRIBE" => {
            identifier(packet, &mut body);
            properties(packet, "", version, &mut body);
            subscriptions(packet, version, &mut body);
            2
        }
        "UNSUBSCRIBE" => {
            identifier(packet, &mut body);
            properties(packet, "", version, &mut body);
            for filter in packet.all("filter") {
                put(Kind::Text, filter, &mut body);
            }
            2
        }
        "PINGREQ" => 0,
        _ => {
            answer(packet, version, &mut body);
            if *name == "PUBREL" { 2 } else { 0 }
        }
    };
    let flags = packet.find_number("flags").map_or(default_flags, |flags| flags as u8);
    framed(kind << 4 | flags, &body)
}

/// A body with its first byte and Remaining Length.
pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    varint(body.len() as u64, &mut out);
    out.extend(body);
    out
}

/// Bytes with their length in two bytes before them.
pub fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number > 127 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put(kind: Kind, value: &Value, out: &mut Vec<u8>) {
    match (kind, value) {
        (Kind::Byte, Value::Number(n)) => out.push(*n as u8),
        (Kind::Two, Value::Number(n)) => out.extend((*n as u16).to_be_bytes()),
        (Kind::Four, Value::Number(n)) => out.extend((*n as u32).to_be_bytes()),
        (Kind::Varint, Value::Number(n)) => varint(*n, out),
        (Kind::Text | Kind::Binary, Value::Bytes(bytes)) => string(bytes, out),
        (Kind::Pair, Value::Bytes(bytes)) => {
            let colon = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
            string(&bytes[..colon], out);
            string(bytes.get(colon + 1..).unwrap_or_default(), out);
        }
        (Kind::Rest, Value::Bytes(bytes)) => out.extend(bytes),
        (kind, value) => panic!("{value} is no {kind:?}"),
    }
}

fn identifier(packet: &Packet, body: &mut Vec<u8>) {
    if let Some(id) = packet.find_number("id") {
        put(Kind::Two, &Value::Number(id), body);
    }
}

fn property_of(prefix: &str, key: &str) -> Option<&'static Property> {
    let name = key.strip_prefix(prefix)?;
    PROPERTIES.iter().find(|property| property.name == name)
}

fn has_properties(packet: &Packet) -> bool {
    packet.fields.iter().any(|(key, _)| property_of("", key).is_some())
}

fn properties(packet: &Packet, prefix: &str, version: Version, body: &mut Vec<u8>) {
    if version != Version::V5 {
        return;
    }
    let mut block = vec![];
    for (key, value) in &packet.fields {
        if let Some(property) = property_of(prefix, key) {
            block.push(property.code);
            put(property.kind, value, &mut block);
        }
    }
    varint(block.len() as u64, body);
    body.extend(block);
}

fn connect(packet: &Packet, version: Version, body: &mut Vec<u8>) {
    let name: &[u8] = if version == Version::V31 { b"MQIsdp" } else { b"MQTT" };
    string(packet.find_bytes("name").unwrap_or(name), body);
    body.push(packet.find_number("level").map_or(version.level(), |level| level as u8));
    let has_will = packet.fields.iter().any(|(key, _)| key.starts_with("will."));
    let bit = |key: &str, shift: u64| packet.find_number(key).unwrap_or(0) << shift;
    let flags = u64::from(packet.find_bytes("user").is_some()) << 7
        | u64::from(packet.find_bytes("password").is_some()) << 6
        | bit("will.retain", 5)
        | bit("will.qos", 3)
        | u64::from(has_will) << 2
        | packet.find_number("clean").unwrap_or(1) << 1;
    body.push(packet.find_number("connect_flags").unwrap_or(flags) as u8);
    body.extend((packet.find_number("keepalive").unwrap_or(0) as u16).to_be_bytes());
    properties(packet, "", version, body);
    string(packet.find_bytes("client").unwrap_or_default(), body);
    if has_will {
        properties(packet, "will.", version, body);
    }
    for key in ["will.topic", "will.payload", "user", "password"] {
        if let Some(bytes) = packet.find_bytes(key) {
            string(bytes, body);
        }
    }
}

fn publish(packet: &Packet, version: Version, body: &mut Vec<u8>) -> u8 {
    string(packet.find_bytes("topic").unwrap_or_default(), body);
    identifier(packet, body);
    properties(packet, "", version, body);
    body.extend(packet.find_bytes("payload").unwrap_or_default());
    let bit = |key: &str, shift: u64| packet.find_number(key).unwrap_or(0) << shift;
    (bit("dup", 3) | bit("qos", 1) | bit("retain", 0)) as u8
}

/// Each `filter` begins a subscription; what follows it are its options.
fn subscriptions(packet: &Packet, version: Version, body: &mut Vec<u8>) {
    let from_5 = if version == Version::V5 { 0xFF } else { 0 };
    let mut options = None;
    for (key, value) in &packet.fields {
        let number = if let Value::Number(n) = value { *n as u8 } else { 0 };
        match key.as_str() {
            "filter" => {
                body.extend(options.replace(0));
                put(Kind::Text, value, body);
            }
            "qos" => options = options.map(|o| o | number),
            "no_local" => options = options.map(|o| o | number << 2 & from_5),
            "retain_as_published" => options = options.map(|o| o | number << 3 & from_5),
            "retain_handling" => options = options.map(|o| o | number << 4 & from_5),
            "options" => options = options.map(|_| number),
            _ => {}
        }
    }
    body.extend(options);
}

/// PUBACK and its like, DISCONNECT and AUTH: Reason Code and properties if they are written.
fn answer(packet: &Packet, version: Version, body: &mut Vec<u8>) {
    identifier(packet, body);
    if version != Version::V5 {
        return;
    }
    let reason = packet.find_number("reason");
    if reason.is_some() || has_properties(packet) {
        body.push(reason.unwrap_or(0) as u8);
    }
    if has_properties(packet) {
        properties(packet, "", version, body);
    }
}
