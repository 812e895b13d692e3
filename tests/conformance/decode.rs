//! A Server's bytes to packets; whatever a Server must not send is an error here.

use crate::packet::{Kind, PACKETS, PROPERTIES, Packet, Value, Version};

/// Reason Codes that a Server may send with MQTT 5.0.
const REASONS: &[(&str, &[u8])] = &[
    (
        "CONNACK",
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
            0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    ("PUBACK", &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    ("PUBREC", &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    ("PUBREL", &[0x00, 0x92]),
    ("PUBCOMP", &[0x00, 0x92]),
    ("SUBACK", &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
    ("UNSUBACK", &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    (
        "DISCONNECT",
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
            0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
        ],
    ),
    ("AUTH", &[0x00, 0x18]),
];

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("the packet ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, len: usize) -> Result<u64, String> {
        Ok(self.take(len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.number(1)?;
            number |= (byte & 127) << shift;
            if byte & 128 == 0 {
                let is_longer = shift > 0 && byte == 0;
                return if is_longer { Err("a length is too long".into()) } else { Ok(number) };
            }
        }
        Err("a length has more than four bytes".into())
    }

    fn string(&mut self) -> Result<&'a [u8], String> {
        let len = self.number(2)? as usize;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let bytes = self.string()?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(bytes),
            _ => Err(format!("ill-formed text {}", Value::Bytes(bytes.into()))),
        }
    }

    fn identifier(&mut self) -> Result<u64, String> {
        match self.number(2)? {
            0 => Err("the Packet Identifier is 0".into()),
            id => Ok(id),
        }
    }

    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        Ok(match kind {
            Kind::Byte => Value::Number(self.number(1)?),
            Kind::Two => Value::Number(self.number(2)?),
            Kind::Four => Value::Number(self.number(4)?),
            Kind::Varint => Value::Number(self.varint()?),
            Kind::Text => Value::Bytes(self.text()?.into()),
            Kind::Binary => Value::Bytes(self.string()?.into()),
            Kind::Pair => Value::Bytes([self.text()?, b":", self.text()?].concat()),
            Kind::Rest => Value::Bytes(std::mem::take(&mut self.0).into()),
        })
    }

    fn properties(&mut self, packet: &mut Packet) -> Result<(), String> {
        let len = self.varint()? as usize;
        let mut block = Reader(self.take(len)?);
        while !block.0.is_empty() {
            let code = block.number(1)?;
            let property = PROPERTIES
                .iter()
                .find(|property| u64::from(property.code) == code)
                .ok_or(format!("there is no property {code}"))?;
            if !property.sent_in.contains(&packet.name) {
                return Err(format!("a Server may not send {} here", property.name));
            }
            let may_repeat = ["user_property", "subscription_id"].contains(&property.name);
            if !may_repeat && packet.all(property.name).next().is_some() {
                return Err(format!("{} comes twice", property.name));
            }
            packet.push(property.name, block.value(property.kind)?);
        }
        Ok(())
    }
}

/// How many bytes the first packet of a stream has, once that can be told.
pub fn length(stream: &[u8]) -> Result<Option<usize>, String> {
    let end = stream.iter().skip(1).take(4).position(|&byte| byte & 128 == 0);
    match end {
        Some(end) => {
            let mut reader = Reader(&stream[1..end + 2]);
            Ok(Some(end + 2 + reader.varint()? as usize))
        }
        None if stream.len() >= 5 => Err("the Remaining Length has no end".into()),
        None => Ok(None),
    }
}

/// A whole packet that a Server sent.
pub fn decode(bytes: &[u8], version: Version) -> Result<Packet, String> {
    let mut reader = Reader(bytes);
    let first = reader.number(1)? as u8;
    reader.varint()?;
    let (name, ..) = PACKETS
        .iter()
        .find(|row| row.1 == first >> 4)
        .ok_or(format!("there is no packet of type {}", first >> 4))?;
    let from_5 = matches!(*name, "DISCONNECT" | "AUTH") && version != Version::V5;
    if from_5 || matches!(*name, "CONNECT" | "SUBSCRIBE" | "UNSUBSCRIBE" | "PINGREQ") {
        return Err(format!("a Server does not send {name} with MQTT {version}"));
    }
    let flags = if *name == "PUBREL" { 2 } else { 0 };
    if *name != "PUBLISH" && first & 15 != flags {
        return Err(format!("the flags of {name} are {}", first & 15));
    }
    let mut packet = Packet::new(name);
    body(&mut reader, first, version, &mut packet)?;
    if !reader.0.is_empty() {
        return Err(format!("{name} has {} bytes too many", reader.0.len()));
    }
    check_reasons(&packet, version)?;
    Ok(packet)
}

fn body(
    reader: &mut Reader,
    first: u8,
    version: Version,
    packet: &mut Packet,
) -> Result<(), String> {
    let is_v5 = version == Version::V5;
    match packet.name {
        "CONNACK" => {
            let session = reader.number(1)?;
            if session > u64::from(version != Version::V31) {
                return Err(format!("the flags of CONNACK are {session}"));
            }
            packet.number("session", session);
            packet.number("reason", reader.number(1)?);
            if is_v5 {
                reader.properties(packet)?;
            }
        }
        "PUBLISH" => publish(reader, first, is_v5, packet)?,
        "SUBACK" | "UNSUBACK" => {
            packet.number("id", reader.identifier()?);
            if is_v5 {
                reader.properties(packet)?;
            }
            let has_reasons = is_v5 || packet.name == "SUBACK";
            while has_reasons && !reader.0.is_empty() {
                packet.number("reason", reader.number(1)?);
            }
        }
        "PINGRESP" => {}
        name => {
            if name.starts_with("PUB") {
                packet.number("id", reader.identifier()?);
            }
            if is_v5 {
                let is_short = reader.0.is_empty();
                packet.number("reason", if is_short { 0 } else { reader.number(1)? });
                if !reader.0.is_empty() {
                    reader.properties(packet)?;
                }
            }
        }
    }
    Ok(())
}

fn publish(reader: &mut Reader, first: u8, is_v5: bool, packet: &mut Packet) -> Result<(), String> {
    let qos = first >> 1 & 3;
    if qos == 3 || (qos == 0 && first & 8 != 0) {
        return Err(format!("the flags of PUBLISH are {}", first & 15));
    }
    packet.number("dup", first >> 3 & 1);
    packet.number("qos", qos);
    packet.number("retain", first & 1);
    let topic = reader.text()?;
    if topic.iter().any(|byte| b"+#".contains(byte)) {
        return Err("the Topic Name has a wildcard".into());
    }
    packet.bytes("topic", topic);
    if qos > 0 {
        packet.number("id", reader.identifier()?);
    }
    if is_v5 {
        reader.properties(packet)?;
    }
    if topic.is_empty() && packet.find_number("topic_alias").is_none() {
        return Err("neither Topic Name nor Topic Alias".into());
    }
    packet.push("payload", reader.value(Kind::Rest)?);
    Ok(())
}

fn check_reasons(packet: &Packet, version: Version) -> Result<(), String> {
    let allowed: &[u8] = match (version, packet.name) {
        (Version::V5, name) => {
            REASONS.iter().find(|row| row.0 == name).map_or(&[], |(_, reasons)| reasons)
        }
        (_, "CONNACK") => &[0, 1, 2, 3, 4, 5],
        (_, "SUBACK") => &[0, 1, 2, 0x80],
        _ => &[],
    };
    for reason in packet.all("reason") {
        let is_allowed = matches!(reason, Value::Number(n) if allowed.contains(&(*n as u8)));
        if !is_allowed {
            return Err(format!("{} may not carry reason {reason}", packet.name));
        }
    }
    let refused = packet.find_number("reason").is_some_and(|reason| reason > 0);
    if packet.name == "CONNACK" && refused && packet.find_number("session") == Some(1) {
        return Err("a CONNACK that refuses says that a Session is present".into());
    }
    Ok(())
}
