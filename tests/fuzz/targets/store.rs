//! Rows of the store: what can be read is written the same again; anything else is an error.

use whimbrel::message::Message;
use whimbrel::session::record::Record;
use whimbrel::session::subscriptions::Subscription;
use whimbrel::store::row;
use whimbrel::topic::TopicName;

/// The first byte chooses the table, the others are a row.
pub fn run(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    match choice % 8 {
        0 => segment(bytes),
        1 => acknowledgements(bytes),
        2 => received(bytes),
        3 => sent(bytes),
        4 => retained(bytes),
        5 => session(bytes),
        6 => subscription(bytes),
        _ => drop(message(bytes)),
    }
}

fn segment(bytes: &[u8]) {
    let records: Result<Vec<_>, _> = row::records(bytes).collect();
    let Ok(records) = records else { return };
    let mut again = vec![];
    for record in &records {
        let targets: Vec<_> = record.targets().collect();
        row::put_record(&mut again, record.id, targets.iter(), |out| {
            out.extend_from_slice(record.body);
        });
        message(record.body);
    }
    assert_eq!(again, bytes);
    assert_eq!(records.iter().map(|record| record.len).sum::<usize>(), bytes.len());
}

fn acknowledgements(bytes: &[u8]) {
    let Ok(acks) = row::acks(bytes) else { return };
    let mut again = vec![];
    for (message, session) in acks {
        row::put_ack(&mut again, message, session);
    }
    assert_eq!(again, bytes);
}

fn received(bytes: &[u8]) {
    let Ok(ids) = row::received(bytes) else { return };
    assert_eq!(row::put_received(ids.into_iter()), bytes);
}

fn sent(bytes: &[u8]) {
    let Ok(exchanges) = row::sent(bytes) else { return };
    assert_eq!(row::put_sent(exchanges.iter()), bytes);
}

fn retained(bytes: &[u8]) {
    let Ok((message, publisher)) = row::retained(bytes) else { return };
    let again = row::put_retained(&message, publisher);
    let (same, publisher_again) = row::retained(&again).expect("what was written can be read");
    assert_eq!(publisher_again, publisher);
    assert_eq!(row::put_retained(&same, publisher), again);
}

fn session(bytes: &[u8]) {
    let Some(record) = Record::decode(bytes) else { return };
    let again = record.encode();
    let same = Record::decode(&again).expect("what was written can be read");
    assert_eq!(same.encode(), again);
    assert_eq!(same.client_id, record.client_id);
    assert_eq!(same.expiry_s, record.expiry_s);
    assert_eq!(same.disconnected_at, record.disconnected_at);
    if let Some(will) = &record.will {
        TopicName::new(will.topic()).expect("a Will has a Topic Name");
    }
}

fn subscription(bytes: &[u8]) {
    let Some(subscription) = Subscription::decode(bytes) else { return };
    assert_eq!(*subscription.encode(), *bytes);
}

/// A message that is read has all that its receivers need not check again.
fn message(bytes: &[u8]) -> Option<()> {
    let message = Message::decode(7, bytes)?;
    TopicName::new(message.topic_str()).expect("a message has a Topic Name");
    let mut again = vec![];
    message.encode(&mut again);
    let same = Message::decode(7, &again).expect("what was written can be read");
    assert_eq!(same.topic(), message.topic());
    assert_eq!(same.properties(), message.properties());
    assert_eq!(same.payload(), message.payload());
    assert_eq!((same.qos(), same.retain()), (message.qos(), message.retain()));
    assert_eq!(same.expires_at(), message.expires_at());
    let weighed = Message::weigh_encoded(&again);
    assert_eq!(weighed, Some((message.weight(), message.expires_at())));
    Some(())
}
