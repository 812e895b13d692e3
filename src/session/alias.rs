//! Topic Aliases, in both directions: they last as long as the Network Connection
//! [MQTT-3.3.2-7].

use std::num::NonZeroU16;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{ProtocolError, Topic};
use crate::codec::{Publish, ReasonCode};

/// Aliases that the Client has set; most set none.
#[derive(Debug, Default)]
pub struct IncomingAliases(Option<Box<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    /// By alias less one; grown to what is used, bounded by the Topic Alias Maximum.
    topics: Vec<Option<Arc<str>>>,
}

impl IncomingAliases {
    /// The topic that a PUBLISH means, setting its alias when it names both.
    pub fn resolve<'p>(
        &mut self,
        publish: &Publish<'p>,
        maximum: u16,
    ) -> Result<Topic<'p>, ProtocolError> {
        let alias =
            if publish.properties.is_empty() { None } else { publish.properties.topic_alias() };
        let invalid = |what| ProtocolError { reason: ReasonCode::TopicAliasInvalid, what };
        match (publish.topic, alias) {
            (Some(topic), None) => Ok(Topic::Named(topic.as_str())),
            (None, None) => Err(ProtocolError::protocol("an empty topic without Topic Alias")),
            (_, Some(alias)) if alias.get() > maximum => {
                Err(invalid("Topic Alias above the Topic Alias Maximum")) // [MQTT-3.3.2-9]
            }
            (Some(topic), Some(alias)) => {
                let index = usize::from(alias.get()) - 1;
                let topics = &mut self.0.get_or_insert_default().topics;
                if topics.len() <= index {
                    topics.resize(index + 1, None);
                }
                if let Some(slot) = topics.get_mut(index) {
                    *slot = Some(Arc::from(topic.as_str()));
                }
                Ok(Topic::Named(topic.as_str()))
            }
            (None, Some(alias)) => self
                .0
                .as_deref()
                .and_then(|taken| taken.topics.get(usize::from(alias.get()) - 1)?.clone())
                .map(Topic::Aliased)
                .ok_or(ProtocolError::protocol("a Topic Alias that was not set")),
        }
    }
}

/// Aliases that we have set: first come, first served, for the topics of one connection.
#[derive(Debug, Default)]
pub struct OutgoingAliases(Option<Box<Given>>);

#[derive(Debug, Default)]
struct Given {
    aliases: FxHashMap<Box<[u8]>, NonZeroU16>,
    last: Option<Box<[u8]>>,
}

impl OutgoingAliases {
    /// The topic's alias and whether the Client knows it; a new one while there are any left.
    pub fn alias_of(&mut self, topic: &[u8], maximum: u16) -> Option<(NonZeroU16, bool)> {
        let given = self.0.get_or_insert_default();
        if let Some(&alias) = given.aliases.get(topic) {
            return Some((alias, true));
        }
        let next = u16::try_from(given.aliases.len()).ok()?.checked_add(1)?;
        let alias = NonZeroU16::new(next).filter(|_| next <= maximum)?;
        given.aliases.insert(topic.into(), alias);
        given.last = Some(topic.into());
        Some((alias, false))
    }

    /// The alias given last was not sent after all.
    pub fn forget_last(&mut self) {
        let Some(given) = &mut self.0 else { return };
        if let Some(topic) = given.last.take() {
            given.aliases.remove(&topic);
        }
    }
}
