//! What values of the table are: their kinds, and what becomes of them.

use std::num::NonZeroU16;

use crate::access::Anonymous;
use crate::access::http::is_url;
use crate::codec::{QoS, Version};
use crate::config::value::{Kind, Value};
use crate::doorman::bucket::Rate;
use crate::journal::{Destination, is_strftime};
use crate::queue::declaration::Strategy;
use crate::store::Durability;
use crate::topic::TopicName;

pub(super) const ANONYMOUS: Kind = Kind::Choice(&["true", "false", "loopback"]);
pub(super) const COUNT: Kind = Kind::Int { min: 1, max: u64::MAX };
pub(super) const LIMIT: Kind = Kind::Int { min: 0, max: 1_000_000_000 };
pub(super) const BYTES_LIMIT: Kind = Kind::Size { min: 0, max: 1 << 40 };
pub(super) const U16: Kind = Kind::Int { min: 0, max: 65_535 };
pub(super) const WINDOW: Kind = Kind::Int { min: 1, max: 65_535 };
pub(super) const PORT: Kind = Kind::Int { min: 0, max: 65_535 };

pub(super) fn anonymous(value: &Value) -> Anonymous {
    match value.text() {
        "true" => Anonymous::Allowed,
        "false" => Anonymous::Denied,
        _ => Anonymous::LoopbackOnly,
    }
}

pub(super) const STRATEGY: Kind =
    Kind::Choice(&["round-robin", "least-inflight", "sticky", "hash-topic"]);

pub(super) fn strategy(value: &Value) -> Strategy {
    match value.text() {
        "least-inflight" => Strategy::LeastInflight,
        "sticky" => Strategy::Sticky,
        "hash-topic" => Strategy::HashTopic,
        _ => Strategy::RoundRobin,
    }
}

pub(super) const DURABILITY: Kind = Kind::Choice(&["fsync", "written", "memory"]);

pub(super) fn durability(value: &Value) -> Durability {
    match value.text() {
        "memory" => Durability::Memory,
        "written" => Durability::Written,
        _ => Durability::Fsync,
    }
}

pub(super) fn window(value: &Value) -> NonZeroU16 {
    NonZeroU16::new(value.u16()).unwrap_or(NonZeroU16::MAX)
}

pub(super) const DESTINATION: Kind = Kind::Like {
    what: "\"stderr\", \"stdout\", \"syslog\", \"topic\", \"none\" or \"file\" with a path",
    fits: |text| {
        let is_file = text.strip_prefix("file ").is_some_and(|path| !path.trim().is_empty());
        is_file || ["stderr", "stdout", "syslog", "topic", "none"].contains(&text)
    },
};

pub(super) const STRFTIME: Kind =
    Kind::Like { what: "a format of strftime, such as \"%Y-%m-%dT%H:%M:%S\"", fits: is_strftime };

pub(super) const URL: Kind =
    Kind::Like { what: "an address with http:// or https://", fits: is_url };

pub(super) const ALGORITHMS: Kind = Kind::Words(&[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
]);

pub(super) const PREFIX: Kind =
    Kind::Like { what: "a text of at most 50 bytes", fits: |text| (1..=50).contains(&text.len()) };

pub(super) const TOPIC: Kind = Kind::Like {
    what: "the beginning of a topic, without wildcards",
    fits: |text| text.len() <= 1024 && TopicName::new(text).is_ok(),
};

pub(super) const VERSIONS: Kind = Kind::Like {
    what: "some of 3, 4 and 5, such as \"4, 5\"",
    fits: |text| versions(text).is_some_and(|versions| !versions.is_empty()),
};

pub(super) fn versions(text: &str) -> Option<Vec<Version>> {
    let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
    words
        .map(|word| match word {
            "3" => Some(Version::V31),
            "4" => Some(Version::V311),
            "5" => Some(Version::V5),
            _ => None,
        })
        .collect()
}

/// Where the log goes; `None`: nowhere.
pub(in crate::config) fn destination(text: &str) -> Option<Destination> {
    Some(match text {
        "stderr" => Destination::Stderr,
        "stdout" => Destination::Stdout,
        "syslog" => Destination::Syslog,
        "topic" => Destination::Topic,
        "none" => return None,
        file => Destination::File(file.strip_prefix("file ").unwrap_or(file).trim().into()),
    })
}

/// None is no limit.
pub(super) fn rate(value: &Value) -> Option<Rate> {
    Rate::new(value.int())
}

pub(super) fn unless_zero(value: &Value) -> usize {
    if value.int() == 0 { usize::MAX } else { value.usize() }
}

pub(super) const ACTIONS: Kind = Kind::Words(&["publish", "subscribe", "receive"]);
pub(super) const QOS: Kind = Kind::Int { min: 0, max: 2 };

pub(super) fn qos(value: &Value) -> QoS {
    u8::try_from(value.int()).ok().and_then(QoS::from_bits).unwrap_or(QoS::ExactlyOnce)
}
