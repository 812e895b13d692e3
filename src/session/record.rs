//! What the store keeps of a Session beside its subscriptions and QoS 2 identifiers.
//!
//! Layout (little-endian): version u8 = 3, expiry u32 in seconds, disconnected at u64 (Unix
//! milliseconds; 0: connected when this was written), seen to u64, Client Identifier length u16
//! and bytes, and to the end the Will, if there is one ([`Will::encode`]). Version 1 has no seen
//! to; 2 is a share group's.

use std::sync::Arc;

use super::Session;
use super::will::Will;
use crate::clock::Moment;

const LAYOUT: u8 = 3;
const LAYOUT_WITHOUT_SEEN: u8 = 1;

/// A Session on record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The Client Identifier.
    pub client_id: Arc<str>,
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
        let len = u16::try_from(self.client_id.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            will.encode(&mut out);
        }
        out.into_boxed_slice()
    }

    /// What [`Record::encode`] wrote; `None` when the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&layout, rest) = bytes.split_first()?;
        if layout != LAYOUT && layout != LAYOUT_WITHOUT_SEEN {
            return None;
        }
        let (expiry, rest) = rest.split_first_chunk::<4>()?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (seen_to, rest) = match layout {
            LAYOUT => rest.split_first_chunk::<8>()?,
            _ => (&[0; 8], rest),
        };
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (client_id, will) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        let at = u64::from_le_bytes(*at);
        Some(Self {
            client_id: std::str::from_utf8(client_id).ok()?.into(),
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

impl Session {
    /// What is to be kept of this Session.
    pub fn record(&self, disconnected_at: Option<Moment>) -> Record {
        Record {
            client_id: self.client_id.clone(),
            expiry_s: self.expiry_s,
            disconnected_at,
            seen_to: self.seen_to,
            will: self.will.clone(),
        }
    }
}
