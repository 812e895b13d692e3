//! The file in which mosquitto keeps what must survive it (`mosquitto.db`), read as it stands.
//!
//! ```text
//! file        0 0xB5 0 "mosquitto db" | checksum u32, always 0 | version u32 | chunks to the end
//! chunk       kind u32 | length u32 | so many bytes
//! 1 settings  last message u64* | whether it was shut down u8 | 8: bytes of a message's number u8
//! 2 message   number u64* | expires i64*, 0: never | payload length u32 | Packet Identifier u16
//!             lengths u16 of publisher's identifier, its user name, topic | port u16 | QoS u8
//!             retain u8 | identifier | user name | topic | payload | [properties as on the wire]
//! 3 delivery  message u64* | Packet Identifier u16 | length of identifier u16 | QoS u8 | state u8
//!             retain (high four bits) and DUP u8 | 0: incoming, 1: outgoing u8
//!             identifier | [properties as on the wire: Subscription Identifiers]
//! 4 retained  message u64*
//! 5 subscription  Subscription Identifier u32 | lengths u16 of Client's identifier, filter
//!             QoS u8 | the other Subscription Options u8 | 2 unused | identifier | filter
//! 6 Client    Session expires i64*, 0: not yet known | Session Expiry Interval u32
//!             last Packet Identifier u16 | length of identifier u16
//!             from version 6 on: port u16 | length of user name u16 | [4 unused]
//!             identifier | [user name]
//! ```
//!
//! Integers are big-endian, but those with a star have the order of the machine that wrote them,
//! which is taken to be little-endian. Times are in seconds since the Unix epoch. Versions 5 and 6
//! (mosquitto 1.6 and 2) are read; before that a chunk's parts stood otherwise.
//!
//! Reading never trusts a length: a chunk that does not add up ends it with the place where it
//! stands. What the parts mean is for [`super::plan`].

use thiserror::Error;

use crate::codec::primitive::Fields;

const MAGIC: &[u8; 15] = b"\0\xB5\0mosquitto db";

/// Versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 5..=6;

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// It is something else.
    #[error("this is no file of mosquitto's: it does not begin as one")]
    Foreign,
    /// Another layout.
    #[error(
        "this is version {0} of mosquitto's file, and versions 5 and 6 are read; a mosquitto of \
         2.0 or later that is started and stopped with the file brings it to version 6"
    )]
    Version(u32),
    /// Written by a mosquitto that was built for another machine.
    #[error("its messages have numbers of {0} bytes and not of 8")]
    Numbers(u8),
    /// It does not add up.
    #[error("it is damaged: the {what} at byte {at} does not add up")]
    Damaged {
        /// What does not.
        what: &'static str,
        /// Where its chunk begins.
        at: usize,
    },
}

/// All that is in a file, in the order in which it stands there.
#[derive(Clone, Debug, Default)]
pub struct Dump<'a> {
    /// The layout.
    pub version: u32,
    /// Sessions.
    pub clients: Vec<Client<'a>>,
    /// Messages, each once.
    pub messages: Vec<Message<'a>>,
    /// Who waits for them.
    pub deliveries: Vec<Delivery<'a>>,
    /// Subscriptions.
    pub subscriptions: Vec<Subscription<'a>>,
    /// Numbers of the messages that their topics retain.
    pub retained: Vec<u64>,
    /// Chunks of a kind that is not known.
    pub unknown: u64,
}

/// A Session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// The Client Identifier.
    pub id: &'a [u8],
    /// Whose it is; empty: nobody's.
    pub username: &'a [u8],
    /// When it ends.
    pub expires_s: i64,
    /// Seconds that it outlives its connection.
    pub expiry_interval_s: u32,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its number, which rises with time.
    pub number: u64,
    /// When it is no longer worth delivering; 0: never.
    pub expires_s: i64,
    /// The Client Identifier of its publisher.
    pub publisher: &'a [u8],
    /// The Topic Name.
    pub topic: &'a [u8],
    /// Quality of service it was published with.
    pub qos: u8,
    /// Whether it was published to be retained.
    pub retain: bool,
    /// The Application Message.
    pub payload: &'a [u8],
    /// Properties with their length, or nothing.
    pub properties: &'a [u8],
}

/// A message on its way from a Client or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The Client Identifier.
    pub client: &'a [u8],
    /// The message's number.
    pub message: u64,
    /// 0: none yet.
    pub packet_id: u16,
    /// Quality of service.
    pub qos: u8,
    /// Where the exchange stands: see [`state`].
    pub state: u8,
    /// The RETAIN flag.
    pub retain: bool,
    /// Whether it was sent before.
    pub dup: bool,
    /// From the Client, not to it.
    pub is_incoming: bool,
    /// Properties with their length, or nothing.
    pub properties: &'a [u8],
}

/// Where an exchange stands, as mosquitto numbers it.
pub mod state {
    /// To be sent with QoS 0, 1, 2.
    pub const PUBLISH: [u8; 3] = [1, 2, 4];
    /// A PUBACK is waited for.
    pub const WAITS_FOR_PUBACK: u8 = 3;
    /// A PUBREC is waited for.
    pub const WAITS_FOR_PUBREC: u8 = 5;
    /// PUBREL is to be sent again.
    pub const RESENDS_PUBREL: u8 = 6;
    /// Incoming: a PUBREL is waited for.
    pub const WAITS_FOR_PUBREL: u8 = 7;
    /// A PUBCOMP is waited for.
    pub const WAITS_FOR_PUBCOMP: u8 = 9;
    /// Incoming: PUBREC is to be sent.
    pub const SENDS_PUBREC: u8 = 10;
    /// Waits for room in the window.
    pub const QUEUED: u8 = 11;
}

/// A subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The Client Identifier.
    pub client: &'a [u8],
    /// The Topic Filter.
    pub filter: &'a [u8],
    /// The Subscription Options as on the wire.
    pub options: u8,
    /// The Subscription Identifier; 0: none.
    pub id: u32,
}

/// Reads a file.
pub fn read(file: &[u8]) -> Result<Dump<'_>, Unreadable> {
    let mut fields = Fields(file);
    if fields.take(MAGIC.len()) != Ok(MAGIC) {
        return Err(Unreadable::Foreign);
    }
    let head = fields.u32().and_then(|_checksum| fields.u32());
    let version = head.map_err(|_| Unreadable::Foreign)?;
    if !VERSIONS.contains(&version) {
        return Err(Unreadable::Version(version));
    }
    let mut dump = Dump { version, ..Dump::default() };
    while !fields.is_empty() {
        let at = file.len() - fields.rest().len();
        let damaged = |what| Unreadable::Damaged { what, at };
        let (kind, body) = chunk(&mut fields).ok_or(damaged("end of the file"))?;
        match kind {
            1 => match settings(body).ok_or(damaged("settings chunk"))? {
                8 => {}
                other => return Err(Unreadable::Numbers(other)),
            },
            2 => dump.messages.push(message(body).ok_or(damaged("message"))?),
            3 => dump.deliveries.push(delivery(body).ok_or(damaged("message of a Client"))?),
            4 => dump.retained.push(retained(body).ok_or(damaged("retained message"))?),
            5 => dump.subscriptions.push(subscription(body).ok_or(damaged("subscription"))?),
            6 => dump.clients.push(client(body, version).ok_or(damaged("Client"))?),
            _ => dump.unknown += 1,
        }
    }
    Ok(dump)
}

fn chunk<'a>(fields: &mut Fields<'a>) -> Option<(u32, &'a [u8])> {
    let (kind, len) = (fields.u32().ok()?, fields.u32().ok()?);
    Some((kind, fields.take(usize::try_from(len).ok()?).ok()?))
}

/// An integer in the order of the machine that wrote it.
fn native<const N: usize>(fields: &mut Fields<'_>) -> Option<[u8; N]> {
    fields.take(N).ok()?.try_into().ok()
}

fn number(fields: &mut Fields<'_>) -> Option<u64> {
    native(fields).map(u64::from_le_bytes)
}

fn time_s(fields: &mut Fields<'_>) -> Option<i64> {
    native(fields).map(i64::from_le_bytes)
}

fn len(fields: &mut Fields<'_>) -> Option<usize> {
    fields.u16().ok().map(usize::from)
}

/// How many bytes a message's number has.
fn settings(body: &[u8]) -> Option<u8> {
    let mut fields = Fields(body);
    number(&mut fields)?;
    let _was_shut_down = fields.u8().ok()?;
    fields.u8().ok()
}

fn message(body: &[u8]) -> Option<Message<'_>> {
    let mut fields = Fields(body);
    let (number, expires_s) = (number(&mut fields)?, time_s(&mut fields)?);
    let payload_len = usize::try_from(fields.u32().ok()?).ok()?;
    let _packet_id = fields.u16().ok()?;
    let (publisher_len, username_len) = (len(&mut fields)?, len(&mut fields)?);
    let (topic_len, _port) = (len(&mut fields)?, fields.u16().ok()?);
    let (qos, retain) = (fields.u8().ok()?, fields.u8().ok()? != 0);
    let publisher = fields.take(publisher_len).ok()?;
    let _username = fields.take(username_len).ok()?;
    let topic = fields.take(topic_len).ok()?;
    let payload = fields.take(payload_len).ok()?;
    let properties = fields.rest();
    Some(Message { number, expires_s, publisher, topic, qos, retain, payload, properties })
}

fn delivery(body: &[u8]) -> Option<Delivery<'_>> {
    let mut fields = Fields(body);
    let (message, packet_id) = (number(&mut fields)?, fields.u16().ok()?);
    let client_len = len(&mut fields)?;
    let (qos, state, flags) = (fields.u8().ok()?, fields.u8().ok()?, fields.u8().ok()?);
    let is_incoming = fields.u8().ok()? == 0;
    let client = fields.take(client_len).ok()?;
    let (retain, dup, properties) = (flags & 0xF0 != 0, flags & 0x0F != 0, fields.rest());
    Some(Delivery { client, message, packet_id, qos, state, retain, dup, is_incoming, properties })
}

fn retained(body: &[u8]) -> Option<u64> {
    number(&mut Fields(body))
}

fn subscription(body: &[u8]) -> Option<Subscription<'_>> {
    let mut fields = Fields(body);
    let id = fields.u32().ok()?;
    let (client_len, filter_len) = (len(&mut fields)?, len(&mut fields)?);
    let options = fields.u8().ok()? & 3 | fields.u8().ok()? & !3;
    let _unused = fields.u16().ok()?;
    let client = fields.take(client_len).ok()?;
    let filter = fields.take(filter_len).ok()?;
    fields.end().ok()?;
    Some(Subscription { client, filter, options, id })
}

fn client(body: &[u8], version: u32) -> Option<Client<'_>> {
    let mut fields = Fields(body);
    let (expires_s, expiry_interval_s) = (time_s(&mut fields)?, fields.u32().ok()?);
    let _last_packet_id = fields.u16().ok()?;
    let id_len = len(&mut fields)?;
    let username_len = if version < 6 {
        0
    } else {
        let _port = fields.u16().ok()?;
        len(&mut fields)?
    };
    // Unused bytes follow where the machine wants the structure to end at a multiple of 8.
    let unused = fields.rest().len().checked_sub(id_len + username_len)?;
    if unused != 0 && (version < 6 || unused != 4) {
        return None;
    }
    fields.take(unused).ok()?;
    let (id, username) = (fields.take(id_len).ok()?, fields.rest());
    Some(Client { id, username, expires_s, expiry_interval_s })
}
