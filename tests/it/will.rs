//! Wills.

use crate::broker::shared;
use crate::raw::{Client, Connect};

fn watcher(topic: &str) -> Client {
    let mut client = Client::v5(shared(), &format!("watch-{topic}"));
    client.subscribe(topic, 2);
    client
}

/// [MQTT-3.1.2-8]
#[test]
fn a_will_is_published_when_the_client_vanishes() {
    for (connect, topic) in [(Connect::v4("will-4"), "will/4"), (Connect::v5("will-5"), "will/5")] {
        let mut watcher = watcher(topic);
        let client = Client::connect(shared(), &connect.will(0x10, &[], topic, "gone"));
        client.vanish();
        let will = watcher.receive();
        assert_eq!((will.text(), will.qos(), will.retain()), ("gone", 2, false));
    }
}

/// [MQTT-3.1.2-10, MQTT-3.14.4-3]
#[test]
fn a_will_is_forgotten_at_disconnect() {
    let mut watcher = watcher("will/forgotten");
    let connect = Connect::v5("will-bye").will(0, &[], "will/forgotten", "gone");
    Client::connect(shared(), &connect).disconnect();
    Client::v4(shared(), "will-bye-s").publish(0, "will/forgotten", "fence");
    assert_eq!(watcher.receive().text(), "fence");
}

#[test]
fn a_will_is_published_at_disconnect_if_asked_for() {
    let mut watcher = watcher("will/asked");
    let connect = Connect::v5("will-asked").will(0, &[], "will/asked", "gone");
    let mut client = Client::connect(shared(), &connect);
    client.send(&[0xE0, 1, 4]);
    assert_eq!(watcher.receive().text(), "gone");
}

/// [MQTT-3.1.2-14, MQTT-3.1.2-15]
#[test]
fn a_will_may_be_retained() {
    let connect = Connect::v4("will-ret").will(0x20, &[], "will/ret", "gone");
    Client::connect(shared(), &connect).vanish();
    let mut watcher = watcher("will/ret");
    assert!(watcher.receive().retain());
}

#[test]
fn a_will_is_published_for_a_protocol_error_and_a_keep_alive_timeout() {
    let mut watcher = watcher("will/error");
    let connect = Connect::v4("will-error").will(0, &[], "will/error", "error");
    let mut client = Client::connect(shared(), &connect);
    client.send(&[0, 0]);
    assert_eq!(watcher.receive().text(), "error");
    let connect = Connect::v4("will-ka").keep_alive(1).will(0, &[], "will/error", "silent");
    let _client = Client::connect(shared(), &connect);
    assert_eq!(watcher.receive().text(), "silent");
}

/// [MQTT-3.1.3-9]
#[test]
fn a_delayed_will_waits_and_is_cancelled_by_a_reconnect() {
    let mut watcher = watcher("will/delay");
    let connect = |delay: u8, text: &str| {
        Connect::v5("will-delay").durable().will(0, &[0x18, 0, 0, 0, delay], "will/delay", text)
    };
    Client::connect(shared(), &connect(1, "cancelled")).vanish();
    Client::connect(shared(), &connect(1, "due")).vanish();
    let begin = std::time::Instant::now();
    assert_eq!(watcher.receive().text(), "due");
    assert!(begin.elapsed().as_millis() >= 900, "{:?}", begin.elapsed());
}

#[test]
fn a_delayed_will_is_due_when_the_session_ends() {
    let mut watcher = watcher("will/end");
    let delayed = Connect::v5("will-end").will(0, &[0x18, 0, 0, 1, 0], "will/end", "ended");
    Client::connect(shared(), &delayed).vanish();
    assert_eq!(watcher.receive().text(), "ended", "the session has no expiry");
    Client::connect(shared(), &delayed.durable()).vanish();
    Client::connect(shared(), &Connect::v5("will-end"));
    assert_eq!(watcher.receive().text(), "ended", "a clean start ends the session");
}

#[test]
fn will_properties_are_forwarded() {
    let mut watcher = watcher("will/props");
    let properties = [0x01, 1, 0x03, 0, 1, b't', 0x26, 0, 1, b'k', 0, 1, b'v'];
    let connect = Connect::v5("will-props").will(0, &properties, "will/props", "x");
    Client::connect(shared(), &connect).vanish();
    assert_eq!(watcher.receive().properties, properties);
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_holds_for_the_will() {
    let connect = Connect::v5("will-nl").durable().will(0x08, &[], "will/nl", "gone");
    let mut client = Client::connect(shared(), &connect);
    client.subscribe("will/nl", 1 | 4);
    let mut watcher = Client::v4(shared(), "will-nl-w");
    watcher.subscribe("will/nl", 0);
    client.vanish();
    assert_eq!(watcher.receive().text(), "gone");
    Client::connect(shared(), &Connect::v5("will-nl").durable()).expect_nothing();
}
