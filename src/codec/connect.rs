//! CONNECT (section 3.1).

use std::fmt;

use super::ack::put_properties;
use super::frame::PacketType;
use super::primitive::{Fields, check_len, put_binary, put_packet};
use super::property::Place;
use super::{DecodeError, EncodeError, Properties, QoS, Version};
use crate::topic::TopicName;

/// A Client asks for a connection.
#[derive(Clone, Copy, PartialEq)]
pub struct Connect<'a> {
    /// Protocol version.
    pub version: Version,
    /// Clean Start, which before MQTT 5.0 is Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0: none.
    pub keep_alive_s: u16,
    /// Client Identifier; may be empty.
    pub client_id: &'a str,
    /// What is to be published when the Client is gone.
    pub will: Option<Will<'a>>,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Properties.
    pub properties: Properties<'a>,
}

/// Shows no password.
impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("properties", &self.properties)
            .finish()
    }
}

/// A Will.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Will<'a> {
    /// Quality of service of its publication.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Will Topic.
    pub topic: TopicName<'a>,
    /// Will Payload.
    pub payload: &'a [u8],
    /// Will Properties.
    pub properties: Properties<'a>,
}

const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

/// Set in the protocol level by bridges of some brokers; it asks for nothing that matters here.
const BRIDGE: u8 = 0x80;

impl<'a> Connect<'a> {
    /// Seconds that the Session outlives the connection, `u32::MAX` for ever. Before MQTT 5.0 a
    /// Session is either clean and ends with its connection, or stays.
    pub fn session_expiry_s(&self) -> u32 {
        match (self.version, self.clean_start) {
            (Version::V5, _) => self.properties.session_expiry_interval().unwrap_or(0),
            (_, true) => 0,
            (_, false) => u32::MAX,
        }
    }

    /// The version that a CONNECT asks for, even if the rest of it is damaged; for the form of
    /// the answer.
    pub fn peek_version(body: &[u8]) -> Option<Version> {
        match version(&mut Fields(body)) {
            Ok(version) => Some(version),
            Err(DecodeError::UnsupportedVersion { level: 6.. }) => Some(Version::V5),
            Err(DecodeError::UnsupportedVersion { .. }) => Some(Version::V311),
            Err(_) => None,
        }
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let version = version(&mut fields)?;
        let flags = fields.u8()?;
        check_flags(flags, version)?;
        let keep_alive_s = fields.u16()?;
        let place = Place::Packet(PacketType::Connect);
        let properties = Properties::decode(&mut fields, version, place)?;
        let client_id = fields.string()?;
        let will = match flags & WILL {
            0 => None,
            _ => Some(Will::decode(flags, &mut fields, version)?),
        };
        // MQTT 3.1 lets Clients in that announce what is not there.
        let is_there = |flag: u8, fields: &Fields<'_>| {
            flags & flag != 0 && (version != Version::V31 || !fields.is_empty())
        };
        let username = if is_there(USERNAME, &fields) { Some(fields.string()?) } else { None };
        let password = if is_there(PASSWORD, &fields) { Some(fields.binary()?) } else { None };
        fields.end()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(PacketType::Connect.first_byte(), out, |body| {
            let (name, level) = match self.version {
                Version::V31 => ("MQIsdp", 3),
                Version::V311 => ("MQTT", 4),
                Version::V5 => ("MQTT", 5),
            };
            put_binary(name.as_bytes(), body);
            body.extend_from_slice(&[level, self.flags()]);
            body.extend_from_slice(&self.keep_alive_s.to_be_bytes());
            put_properties(self.properties, self.version, body);
            put_binary(check_len(self.client_id.as_bytes())?, body);
            if let Some(will) = &self.will {
                put_properties(will.properties, self.version, body);
                put_binary(will.topic.as_str().as_bytes(), body);
                put_binary(check_len(will.payload)?, body);
            }
            if let Some(username) = self.username {
                put_binary(check_len(username.as_bytes())?, body);
            }
            if let Some(password) = self.password {
                put_binary(check_len(password)?, body);
            }
            Ok(())
        })
    }

    fn flags(&self) -> u8 {
        let set = |is_set: bool, flag| if is_set { flag } else { 0 };
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| WILL | (will.qos as u8) << 3 | set(will.retain, WILL_RETAIN));
        set(self.clean_start, CLEAN_START)
            | will
            | set(self.username.is_some(), USERNAME)
            | set(self.password.is_some(), PASSWORD)
    }
}

impl<'a> Will<'a> {
    fn decode(flags: u8, fields: &mut Fields<'a>, version: Version) -> Result<Self, DecodeError> {
        let properties = Properties::decode(fields, version, Place::Will)?;
        Ok(Self {
            // [MQTT-3.1.2-12]
            qos: QoS::from_bits(flags >> 3 & 3).ok_or(DecodeError::Malformed("Will QoS 3"))?,
            retain: flags & WILL_RETAIN != 0,
            properties,
            topic: TopicName::new(fields.string()?)?,
            payload: fields.binary()?,
        })
    }
}

/// Protocol Name and Protocol Version.
fn version(fields: &mut Fields<'_>) -> Result<Version, DecodeError> {
    let name = fields.binary()?;
    let level = fields.u8()?;
    match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) if level & BRIDGE == 0 => Ok(Version::V5),
        // [MQTT-3.1.2-2]
        (b"MQTT" | b"MQIsdp", level) => Err(DecodeError::UnsupportedVersion { level }),
        // [MQTT-3.1.2-1]
        _ => Err(DecodeError::Malformed("the Protocol Name is not MQTT")),
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    // MQTT 3.1 disregards what is not used.
    let is_strict = version != Version::V31;
    if is_strict && flags & 1 != 0 {
        return Err(DecodeError::Malformed("a reserved Connect Flag is set")); // [MQTT-3.1.2-3]
    }
    if is_strict && flags & WILL == 0 && flags & 0b0011_1000 != 0 {
        return Err(DecodeError::Malformed("Will QoS or Will Retain without a Will")); // -11, -13
    }
    if !version.has_properties() && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return Err(DecodeError::Malformed("a password without a user name")); // 3.1.1, 3.1.2-22
    }
    Ok(())
}
