//! What has to hold for a connection as a whole, whatever its dialogue expects: identifiers that
//! are in use, the Client's Receive Maximum and its Topic Alias Maximum.

use std::collections::{BTreeMap, BTreeSet};

use crate::packet::{Packet, Value, Version};

#[derive(Default)]
pub struct Books {
    receive_maximum: Option<u64>,
    topic_alias_maximum: u64,
    aliases: BTreeMap<u64, Vec<u8>>,
    /// How many more QoS 1 and 2 PUBLISH packets may come (section 4.9).
    quota: Option<u64>,
    /// Of PUBLISH packets that came on this connection and are not done with.
    published: BTreeSet<u64>,
    /// Of PUBREL packets whose PUBLISH came on an earlier one.
    released: BTreeSet<u64>,
}

impl Books {
    /// What a CONNECT says of the packets that may come.
    pub fn connect(&mut self, packet: &Packet) {
        self.receive_maximum = packet.find_number("receive_maximum").filter(|&n| n > 0);
        self.quota = self.receive_maximum;
        self.topic_alias_maximum = packet.find_number("topic_alias_maximum").unwrap_or(0);
    }

    /// A packet that the Client sends, be it well-formed or not.
    pub fn sent(&mut self, bytes: &[u8]) {
        let (kind, id, reason) = match *bytes {
            [first, 2..128, high, low, ref rest @ ..] => {
                let reason = rest.first().copied().unwrap_or(0);
                (first >> 4, u64::from(high) << 8 | u64::from(low), reason)
            }
            _ => return,
        };
        if matches!((kind, reason), (4 | 7, _) | (5, 0x80..)) {
            self.published.remove(&id);
            self.released.remove(&id);
            self.quota = self.quota.map(|quota| quota + 1).min(self.receive_maximum);
        }
    }

    /// A packet of the Server. A Topic Alias is replaced by its Topic Name.
    pub fn came(&mut self, packet: &mut Packet, version: Version) -> Result<(), String> {
        let id = packet.find_number("id").unwrap_or(0);
        match packet.name {
            "PUBLISH" => {
                self.resolve(packet)?;
                if id > 0 {
                    self.begin(id, packet.find_number("dup") == Some(1), version)
                } else {
                    Ok(())
                }
            }
            "PUBREL" => {
                if !self.published.contains(&id) {
                    self.released.insert(id);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, id: u64, is_dup: bool, version: Version) -> Result<(), String> {
        let is_in_use = self.published.contains(&id) || self.released.contains(&id);
        // Before 5.0 a message may be sent again on the same connection.
        if is_in_use && (version == Version::V5 || !is_dup) {
            return Err(format!("Packet Identifier {id} is in use"));
        }
        self.published.insert(id);
        match self.quota {
            Some(0) => Err("more than the Receive Maximum are not acknowledged".into()),
            quota => {
                self.quota = quota.map(|quota| quota - 1);
                Ok(())
            }
        }
    }

    fn resolve(&mut self, packet: &mut Packet) -> Result<(), String> {
        let Some(alias) = packet.find_number("topic_alias") else { return Ok(()) };
        if alias == 0 || alias > self.topic_alias_maximum {
            return Err(format!("Topic Alias {alias} is not allowed"));
        }
        let topic = packet.find_bytes("topic").unwrap_or_default().to_vec();
        if !topic.is_empty() {
            self.aliases.insert(alias, topic);
            return Ok(());
        }
        let topic = self.aliases.get(&alias).ok_or(format!("Topic Alias {alias} was never set"))?;
        for (key, value) in &mut packet.fields {
            if key == "topic" {
                *value = Value::Bytes(topic.clone());
            }
        }
        Ok(())
    }
}
