//! What a packet is to a dialogue: a name and named values. The tables say which there are.

use std::fmt;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "3.1" => Ok(Self::V31),
            "3.1.1" => Ok(Self::V311),
            "5" => Ok(Self::V5),
            _ => Err(format!("{text} is no version; there are 3.1, 3.1.1 and 5")),
        }
    }

    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

/// How a value stands in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Byte,
    Two,
    Four,
    Varint,
    Text,
    Binary,
    /// Two texts, here written with a colon between them.
    Pair,
    /// Bytes up to the packet's end.
    Rest,
}

impl Kind {
    /// The largest number, or nothing if it is none.
    pub fn max(self) -> Option<u64> {
        match self {
            Self::Byte => Some(0xFF),
            Self::Two => Some(0xFFFF),
            Self::Four => Some(0xFFFF_FFFF),
            Self::Varint => Some(268_435_455),
            Self::Text | Self::Binary | Self::Pair | Self::Rest => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Bytes(bytes) => {
                write!(f, "\"{}", bytes[..bytes.len().min(SHOWN)].escape_ascii())?;
                match bytes.len() {
                    0..=SHOWN => f.write_str("\""),
                    len => write!(f, "…\" ({len} bytes)"),
                }
            }
        }
    }
}

/// A packet as a dialogue sees it: what is repeated stands more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub name: &'static str,
    pub fields: Vec<(String, Value)>,
}

impl Packet {
    pub fn new(name: &'static str) -> Self {
        Self { name, fields: vec![] }
    }

    pub fn push(&mut self, key: &str, value: Value) {
        self.fields.push((key.into(), value));
    }

    pub fn number(&mut self, key: &str, number: impl Into<u64>) {
        self.push(key, Value::Number(number.into()));
    }

    pub fn bytes(&mut self, key: &str, bytes: impl AsRef<[u8]>) {
        self.push(key, Value::Bytes(bytes.as_ref().into()));
    }

    pub fn all(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.fields.iter().filter(move |(k, _)| k == key).map(|(_, value)| value)
    }

    pub fn find_number(&self, key: &str) -> Option<u64> {
        self.all(key).find_map(|value| match value {
            Value::Number(n) => Some(*n),
            Value::Bytes(_) => None,
        })
    }

    pub fn find_bytes(&self, key: &str) -> Option<&[u8]> {
        self.all(key).find_map(|value| match value {
            Value::Number(_) => None,
            Value::Bytes(bytes) => Some(&bytes[..]),
        })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (key, value) in &self.fields {
            match value {
                Value::Number(n) if key == "reason" => write!(f, " reason=0x{n:02X}")?,
                _ => write!(f, " {key}={value}")?,
            }
        }
        Ok(())
    }
}

type Key = (&'static str, Kind);

/// Each packet: name, type, and the values beside its properties.
pub const PACKETS: &[(&str, u8, &[Key])] = &[
    (
        "CONNECT",
        1,
        &[
            ("name", Kind::Text),
            ("level", Kind::Byte),
            ("connect_flags", Kind::Byte),
            ("clean", Kind::Byte),
            ("keepalive", Kind::Two),
            ("client", Kind::Text),
            ("will.topic", Kind::Text),
            ("will.payload", Kind::Binary),
            ("will.qos", Kind::Byte),
            ("will.retain", Kind::Byte),
            ("user", Kind::Text),
            ("password", Kind::Binary),
        ],
    ),
    ("CONNACK", 2, &[("session", Kind::Byte), ("reason", Kind::Byte)]),
    (
        "PUBLISH",
        3,
        &[
            ("dup", Kind::Byte),
            ("qos", Kind::Byte),
            ("retain", Kind::Byte),
            ("topic", Kind::Text),
            ("id", Kind::Two),
            ("payload", Kind::Rest),
        ],
    ),
    ("PUBACK", 4, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    ("PUBREC", 5, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    ("PUBREL", 6, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    ("PUBCOMP", 7, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    (
        "SUBSCRIBE",
        8,
        &[
            ("id", Kind::Two),
            ("filter", Kind::Text),
            ("qos", Kind::Byte),
            ("no_local", Kind::Byte),
            ("retain_as_published", Kind::Byte),
            ("retain_handling", Kind::Byte),
            ("options", Kind::Byte),
        ],
    ),
    ("SUBACK", 9, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    ("UNSUBSCRIBE", 10, &[("id", Kind::Two), ("filter", Kind::Text)]),
    ("UNSUBACK", 11, &[("id", Kind::Two), ("reason", Kind::Byte)]),
    ("PINGREQ", 12, &[]),
    ("PINGRESP", 13, &[]),
    ("DISCONNECT", 14, &[("reason", Kind::Byte)]),
    ("AUTH", 15, &[("reason", Kind::Byte)]),
];

/// A property of MQTT 5.0 and the packets in which a Server may send it.
pub struct Property {
    pub code: u8,
    pub name: &'static str,
    pub kind: Kind,
    pub sent_in: &'static [&'static str],
}

const fn property(
    code: u8,
    name: &'static str,
    kind: Kind,
    sent_in: &'static [&'static str],
) -> Property {
    Property { code, name, kind, sent_in }
}

const REASONED: &[&str] = &[
    "CONNACK",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBACK",
    "UNSUBACK",
    "DISCONNECT",
    "AUTH",
];
const WITH_USER_PROPERTIES: &[&str] = &[
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBACK",
    "UNSUBACK",
    "DISCONNECT",
    "AUTH",
];

pub const PROPERTIES: &[Property] = &[
    property(1, "payload_format", Kind::Byte, &["PUBLISH"]),
    property(2, "message_expiry", Kind::Four, &["PUBLISH"]),
    property(3, "content_type", Kind::Text, &["PUBLISH"]),
    property(8, "response_topic", Kind::Text, &["PUBLISH"]),
    property(9, "correlation_data", Kind::Binary, &["PUBLISH"]),
    property(11, "subscription_id", Kind::Varint, &["PUBLISH"]),
    property(17, "session_expiry", Kind::Four, &["CONNACK"]),
    property(18, "assigned_client", Kind::Text, &["CONNACK"]),
    property(19, "server_keepalive", Kind::Two, &["CONNACK"]),
    property(21, "authentication_method", Kind::Text, &["CONNACK", "AUTH"]),
    property(22, "authentication_data", Kind::Binary, &["CONNACK", "AUTH"]),
    property(23, "request_problem_information", Kind::Byte, &[]),
    property(24, "will_delay", Kind::Four, &[]),
    property(25, "request_response_information", Kind::Byte, &[]),
    property(26, "response_information", Kind::Text, &["CONNACK"]),
    property(28, "server_reference", Kind::Text, &["CONNACK", "DISCONNECT"]),
    property(31, "reason_string", Kind::Text, REASONED),
    property(33, "receive_maximum", Kind::Two, &["CONNACK"]),
    property(34, "topic_alias_maximum", Kind::Two, &["CONNACK"]),
    property(35, "topic_alias", Kind::Two, &["PUBLISH"]),
    property(36, "maximum_qos", Kind::Byte, &["CONNACK"]),
    property(37, "retain_available", Kind::Byte, &["CONNACK"]),
    property(38, "user_property", Kind::Pair, WITH_USER_PROPERTIES),
    property(39, "maximum_packet_size", Kind::Four, &["CONNACK"]),
    property(40, "wildcard_available", Kind::Byte, &["CONNACK"]),
    property(41, "subscription_id_available", Kind::Byte, &["CONNACK"]),
    property(42, "shared_available", Kind::Byte, &["CONNACK"]),
];

pub fn property_named(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}

/// A packet's row.
pub fn row(name: &str) -> Option<&'static (&'static str, u8, &'static [Key])> {
    PACKETS.iter().find(|row| row.0 == name)
}

/// How the value of a key stands in a packet: a field, a property, or a Will's property.
pub fn kind_of(packet: &str, key: &str) -> Option<Kind> {
    let (_, _, fields) = row(packet)?;
    if let Some((_, kind)) = fields.iter().find(|(name, _)| *name == key) {
        return Some(*kind);
    }
    if key == "flags" {
        return Some(Kind::Byte);
    }
    let name = match key.strip_prefix("will.") {
        Some(name) if packet == "CONNECT" => name,
        _ => key,
    };
    property_named(name).map(|property| property.kind)
}

/// What a value is when nothing is written; a Server's packet that has another must say so.
pub fn default_of(packet: &str, key: &str) -> Option<Value> {
    match (packet, key) {
        ("SUBACK" | "UNSUBACK", _) => None,
        (_, "session" | "reason" | "dup" | "qos" | "retain") => Some(Value::Number(0)),
        ("PUBLISH", "topic" | "payload") => Some(Value::Bytes(vec![])),
        _ => None,
    }
}

/// Whether a packet has this Reason Code in MQTT 5.0 only.
pub fn has_reason_from_5(packet: &str) -> bool {
    !["CONNACK", "SUBACK"].contains(&packet)
}
