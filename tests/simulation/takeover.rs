//! A Client that is not listened to, because the store takes nothing, leaves in good order and comes
//! again at once: what it has said is heard before its next connection takes over.

use crate::packet::{Connect, Filter, Packet, Publish, Will};
use crate::stage::{Member, Stage, publish};

fn subscribes(member: &mut Member, filter: &str) {
    let filter = Filter {
        filter: filter.into(),
        qos: 0,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
    };
    member.send(Packet::Subscribe { id: 1, subscription_id: None, filters: vec![filter] });
}

#[tokio::test]
async fn a_disconnect_behind_a_publish_that_is_held_back_is_heard() {
    let mut stage = Stage::new();
    let mut watcher = stage.connect("watcher", 100);
    subscribes(&mut watcher, "t");
    stage.commit(&mut [&mut watcher]);
    let topic = || "t".to_owned();
    let (qos, retain, delay_s, expiry_s) = (0, false, 0, None);
    let will = Will { topic: topic(), payload: b"will".into(), qos, retain, delay_s, expiry_s };
    let connect = Connect {
        client_id: "first".into(),
        clean_start: false,
        keep_alive_s: 0,
        expiry_s: u32::MAX,
        receive_maximum: None,
        will: Some(will),
    };
    let mut first = stage.open(false, connect.clone());
    stage.commit(&mut [&mut first]);
    stage.disk.fail_after(0, true, false);
    subscribes(&mut watcher, "other");
    stage.commit(&mut [&mut watcher]);
    let said = Publish { retain: true, ..publish(&topic(), 1, b"said") };
    first.send(Packet::Publish(said));
    first.send(Packet::Disconnect { reason: 0, expiry_s: None });
    assert!(watcher.received().iter().all(|packet| !matches!(packet, Packet::Publish(_))));
    stage.disk.heal();
    stage.commit(&mut [&mut watcher]);
    // The clock stands still: it is not time yet to look whether messages are taken again.
    let mut second = stage.open(false, Connect { will: None, ..connect });
    stage.commit(&mut [&mut first, &mut second, &mut watcher]);
    let payload = |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    };
    let came: Vec<_> = watcher.received().into_iter().filter_map(payload).collect();
    assert_eq!(came, [b"said"], "what the Client said, and not its Will");
}
