//! Whimbrel, an MQTT broker.
#![forbid(unsafe_code)]

pub mod clock;
