//! What the store keeps of a Session beside its subscriptions and QoS 2 identifiers.
//!
//! Layout (little-endian): version u8 = 5, expiry u32 in seconds, disconnected at u64 (Unix
//! milliseconds; 0: connected when this was written), seen to u64, Client Identifier length u16
//! and bytes, owner u8 (1: length u16 and bytes of the user name follow; 0: nobody), and to the
//! end the Will, if there is one ([`Will::encode`]). Version 3 has no owner, 1 no seen to either;
//! 2 is a share group's and 4 a declared queue's: the first byte tells them from Sessions.

use std::sync::Arc;

use super::Session;
use super::will::Will;
use crate::clock::Moment;

const LAYOUT: u8 = 5;
const LAYOUT_WITHOUT_OWNER: u8 = 3;
const LAYOUT_WITHOUT_SEEN: u8 = 1;

/// A Session on record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// The user whose Session it is.
    pub owner: Option<Arc<str>>,
    /// Seconds that the Session outlives its connection; `u32::MAX` for ever.
    pub expiry_s: u32,
    /// When the connection ended; `None` while there is one.
    pub disconnected_at: Option<Moment>,
    /// Messages with identities up to this may have been sent before a crash.
    pub seen_to: u64,
    /// The Will that is still to be published.
    pub will: Option<Box<Will>>,
}

impl Record {
    /// The bytes for the store.
    pub fn encode(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(24 + self.client_id.len());
        out.push(LAYOUT);
        out.extend_from_slice(&self.expiry_s.to_le_bytes());
        let at = self.disconnected_at.map_or(0, Moment::unix_ms);
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&self.seen_to.to_le_bytes());
        put_text(&self.client_id, &mut out);
        out.push(self.owner.is_some().into());
        if let Some(owner) = &self.owner {
            put_text(owner, &mut out);
        }
        if let Some(will) = &self.will {
            will.encode(&mut out);
        }
        out.into_boxed_slice()
    }

    /// What [`Record::encode`] wrote; `None` when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&layout, rest) = bytes.split_first()?;
        if ![LAYOUT, LAYOUT_WITHOUT_OWNER, LAYOUT_WITHOUT_SEEN].contains(&layout) {
            return None;
        }
        let (expiry, rest) = rest.split_first_chunk::<4>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (seen_to, rest) = match layout {
            LAYOUT_WITHOUT_SEEN => (&[0; 8], rest),
            _ => rest.split_first_chunk::<8>()?,
        };
        let (client_id, rest) = take_text(rest)?;
        let (owner, will) = match (layout, rest) {
            (LAYOUT, [0, will @ ..]) => (None, will),
            (LAYOUT, [1, rest @ ..]) => take_text(rest).map(|(owner, will)| (Some(owner), will))?,
            (LAYOUT, _) => return None,
            (_, will) => (None, will),
        };
        let at = u64::from_le_bytes(*at);
        Some(Self {
            client_id: client_id.into(),
            owner: owner.map(Into::into),
            expiry_s: u32::from_le_bytes(*expiry),
            disconnected_at: (at != 0).then(|| Moment::from_unix_ms(at)),
            seen_to: u64::from_le_bytes(*seen_to),
            will: match will {
                [] => None,
                will => Some(Box::new(Will::decode(will)?)),
            },
        })
    }
}

/// Appends length and bytes; what CONNECT holds is never longer than the length can say.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

impl Session {
    /// What is to be kept of this Session, which belongs to `owner`.
    pub fn record(&self, disconnected_at: Option<Moment>, owner: Option<Arc<str>>) -> Record {
        Record {
            client_id: self.client_id.clone(),
            owner,
            expiry_s: self.expiry_s,
            disconnected_at,
            seen_to: self.seen_to,
            will: self.will.clone(),
        }
    }
}
