//! A second reading of what a Server sent: `mqttbytes` for MQTT 3.1 and 3.1.1, `rmqtt-codec` for
//! 5.0. A packet that they read otherwise than `decode` fails the dialogue, so that a misreading
//! cannot hide.

use bytes::BytesMut;
use mqttbytes::v4;
use rmqtt_codec::v5;
use tokio_util::codec::Decoder;

use crate::packet::{Packet, Value, Version};

/// Whether the other codec reads the same.
pub fn agrees(bytes: &[u8], version: Version, ours: &Packet) -> Result<(), String> {
    let other = if version == Version::V5 { "rmqtt-codec" } else { "mqttbytes" };
    // It knows no interval of 0, which is legal.
    if ours.find_number("message_expiry") == Some(0) {
        return Ok(());
    }
    let theirs = read(bytes, version).map_err(|e| format!("{other} does not take it: {e}"))?;
    let (ours, theirs) = (comparable(ours), comparable(&theirs));
    if ours == theirs { Ok(()) } else { Err(format!("{other} reads {theirs}, here it is {ours}")) }
}

/// In order of the names, and without what the other codec shows as absent.
fn comparable(packet: &Packet) -> Packet {
    let is_default = |key: &str, value: &Value| match key {
        "payload_format" | "topic_alias_maximum" => *value == Value::Number(0),
        "receive_maximum" => *value == Value::Number(65_535),
        "maximum_qos" => *value == Value::Number(2),
        "retain_available"
        | "wildcard_available"
        | "subscription_id_available"
        | "shared_available" => *value == Value::Number(1),
        _ => false,
    };
    let mut packet = packet.clone();
    packet.fields.retain(|(key, value)| !is_default(key, value));
    packet.fields.sort_by(|a, b| a.0.cmp(&b.0));
    packet
}

fn read(bytes: &[u8], version: Version) -> Result<Packet, String> {
    let mut stream = BytesMut::from(bytes);
    let read = if version == Version::V5 {
        let read = v5::Codec::new(0, 0).decode(&mut stream).map_err(|e| format!("{e:?}"))?;
        let (read, _) = read.ok_or("it waits for more")?;
        of_5(read)?
    } else {
        of_4(v4::read(&mut stream, bytes.len()).map_err(|e| format!("{e:?}"))?)?
    };
    if stream.is_empty() { Ok(read) } else { Err("bytes are left over".into()) }
}

fn with_id(name: &'static str, id: u16) -> Packet {
    let mut packet = Packet::new(name);
    packet.number("id", id);
    packet
}

fn of_4(read: v4::Packet) -> Result<Packet, String> {
    Ok(match read {
        v4::Packet::ConnAck(read) => {
            let mut packet = Packet::new("CONNACK");
            packet.number("session", read.session_present);
            packet.number("reason", read.code as u8);
            packet
        }
        v4::Packet::Publish(read) => {
            let mut packet = Packet::new("PUBLISH");
            packet.number("dup", read.dup);
            packet.number("qos", read.qos as u8);
            packet.number("retain", read.retain);
            packet.bytes("topic", read.topic);
            if read.pkid != 0 {
                packet.number("id", read.pkid);
            }
            packet.bytes("payload", read.payload);
            packet
        }
        v4::Packet::PubAck(read) => with_id("PUBACK", read.pkid),
        v4::Packet::PubRec(read) => with_id("PUBREC", read.pkid),
        v4::Packet::PubRel(read) => with_id("PUBREL", read.pkid),
        v4::Packet::PubComp(read) => with_id("PUBCOMP", read.pkid),
        v4::Packet::SubAck(read) => {
            let mut packet = with_id("SUBACK", read.pkid);
            for code in read.return_codes {
                let code = match code {
                    v4::SubscribeReasonCode::Success(qos) => qos as u8,
                    v4::SubscribeReasonCode::Failure => 0x80,
                };
                packet.number("reason", code);
            }
            packet
        }
        v4::Packet::UnsubAck(read) => with_id("UNSUBACK", read.pkid),
        v4::Packet::PingResp => Packet::new("PINGRESP"),
        other => return Err(format!("{other:?} is none of a Server's")),
    })
}

/// What many packets end with.
fn add_reason_string(
    packet: &mut Packet,
    reason: Option<impl AsRef<[u8]>>,
    properties: &v5::UserProperties,
) {
    add(packet, "reason_string", reason);
    for (name, value) in properties {
        packet.bytes("user_property", format!("{name}:{value}"));
    }
}

fn add(packet: &mut Packet, key: &str, bytes: Option<impl AsRef<[u8]>>) {
    if let Some(bytes) = bytes {
        packet.bytes(key, bytes);
    }
}

fn add_number(packet: &mut Packet, key: &str, number: Option<impl Into<u64>>) {
    if let Some(number) = number {
        packet.number(key, number);
    }
}

fn ack(name: &'static str, read: v5::PublishAck) -> Packet {
    let mut packet = with_id(name, read.packet_id.get());
    packet.number("reason", u8::from(read.reason_code));
    add_reason_string(&mut packet, read.reason_string, &read.properties);
    packet
}

fn ack2(name: &'static str, read: v5::PublishAck2) -> Packet {
    let mut packet = with_id(name, read.packet_id.get());
    packet.number("reason", u8::from(read.reason_code));
    add_reason_string(&mut packet, read.reason_string, &read.properties);
    packet
}

fn of_5(read: v5::Packet) -> Result<Packet, String> {
    Ok(match read {
        v5::Packet::ConnectAck(read) => connack(*read),
        v5::Packet::Publish(read) => {
            let mut packet = Packet::new("PUBLISH");
            packet.number("dup", read.dup);
            packet.number("qos", read.qos.value());
            packet.number("retain", read.retain);
            packet.bytes("topic", &*read.topic);
            add_number(&mut packet, "id", read.packet_id.map(|id| id.get()));
            packet.bytes("payload", &read.payload);
            let read = read.properties.ok_or("no properties")?;
            add_number(&mut packet, "topic_alias", read.topic_alias.map(|alias| alias.get()));
            add(&mut packet, "correlation_data", read.correlation_data);
            let expiry = read.message_expiry_interval.map(|expiry| expiry.get());
            add_number(&mut packet, "message_expiry", expiry);
            add(&mut packet, "content_type", read.content_type);
            packet.number("payload_format", read.is_utf8_payload);
            add(&mut packet, "response_topic", read.response_topic);
            for id in read.subscription_ids {
                packet.number("subscription_id", id.get());
            }
            add_reason_string(&mut packet, None::<&str>, &read.user_properties);
            packet
        }
        v5::Packet::PublishAck(read) => ack("PUBACK", read),
        v5::Packet::PublishReceived(read) => ack("PUBREC", read),
        v5::Packet::PublishRelease(read) => ack2("PUBREL", read),
        v5::Packet::PublishComplete(read) => ack2("PUBCOMP", read),
        v5::Packet::SubscribeAck(read) => {
            let mut packet = with_id("SUBACK", read.packet_id.get());
            read.status.iter().for_each(|&code| packet.number("reason", u8::from(code)));
            add_reason_string(&mut packet, read.reason_string, &read.properties);
            packet
        }
        v5::Packet::UnsubscribeAck(read) => {
            let mut packet = with_id("UNSUBACK", read.packet_id.get());
            read.status.iter().for_each(|&code| packet.number("reason", u8::from(code)));
            add_reason_string(&mut packet, read.reason_string, &read.properties);
            packet
        }
        v5::Packet::PingResponse => Packet::new("PINGRESP"),
        v5::Packet::Disconnect(read) => {
            let mut packet = Packet::new("DISCONNECT");
            packet.number("reason", u8::from(read.reason_code));
            add_number(&mut packet, "session_expiry", read.session_expiry_interval_secs);
            add(&mut packet, "server_reference", read.server_reference);
            add_reason_string(&mut packet, read.reason_string, &read.user_properties);
            packet
        }
        v5::Packet::Auth(read) => {
            let mut packet = Packet::new("AUTH");
            packet.number("reason", u8::from(read.reason_code));
            add(&mut packet, "authentication_method", read.auth_method);
            add(&mut packet, "authentication_data", read.auth_data);
            add_reason_string(&mut packet, read.reason_string, &read.user_properties);
            packet
        }
        other => return Err(format!("{other:?} is none of a Server's")),
    })
}

fn connack(read: v5::ConnectAck) -> Packet {
    let mut packet = Packet::new("CONNACK");
    packet.number("session", read.session_present);
    packet.number("reason", u8::from(read.reason_code));
    add_number(&mut packet, "session_expiry", read.session_expiry_interval_secs);
    packet.number("receive_maximum", read.receive_max.get());
    packet.number("maximum_qos", read.max_qos.value());
    add_number(&mut packet, "maximum_packet_size", read.max_packet_size);
    add(&mut packet, "assigned_client", read.assigned_client_id);
    packet.number("topic_alias_maximum", read.topic_alias_max);
    packet.number("retain_available", read.retain_available);
    packet.number("wildcard_available", read.wildcard_subscription_available);
    packet.number("subscription_id_available", read.subscription_identifiers_available);
    packet.number("shared_available", read.shared_subscription_available);
    add_number(&mut packet, "server_keepalive", read.server_keepalive_sec);
    add(&mut packet, "response_information", read.response_info);
    add(&mut packet, "server_reference", read.server_reference);
    add(&mut packet, "authentication_method", read.auth_method);
    add(&mut packet, "authentication_data", read.auth_data);
    add_reason_string(&mut packet, read.reason_string, &read.user_properties);
    packet
}
