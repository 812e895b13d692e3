//! Faults that are planted in a record, to see that they are found.

use crate::record::*;

struct Planted {
    record: Record,
    exact: Audience,
    least: Audience,
    group: Audience,
    topic: Topic,
}

fn planted() -> Planted {
    let mut record = Record::default();
    let exact = record.audience("exact", true, false);
    let least = record.audience("least", false, false);
    let topic = record.topic("m/1", 2);
    let group = record.audience("group", true, true);
    for audience in [exact, least, group] {
        record.subscribing(audience, "m/+");
        record.subscribed(audience, "m/+");
    }
    Planted { record, exact, least, group, topic }
}

impl Planted {
    fn publish(&mut self) -> usize {
        let number = self.record.sending(self.topic);
        self.record.accepted(self.topic, number);
        number
    }

    fn faults(&self) -> Vec<Fault> {
        self.record.violations.iter().map(|violation| violation.fault).collect()
    }

    fn judge(&mut self, audience: Audience) -> Vec<Fault> {
        self.record.judge(audience);
        self.faults()
    }
}

#[test]
fn what_is_right_is_no_fault() {
    let mut planted = planted();
    let audiences = [planted.exact, planted.least, planted.group];
    for number in [planted.publish(), planted.publish()] {
        for audience in audiences {
            planted.record.delivered(audience, "m/1", number, false);
        }
    }
    planted.record.sending(planted.topic); // never acknowledged, never delivered
    planted.record.begins(planted.least);
    planted.record.delivered(planted.least, "m/1", 0, true);
    for audience in audiences {
        assert_eq!(planted.record.missing(audience), 0);
        assert_eq!(planted.judge(audience), []);
    }
    assert_eq!((planted.record.totals.due, planted.record.totals.repeated), (6, 1));
}

#[test]
fn a_lost_message_is_found_once() {
    let mut planted = planted();
    planted.publish();
    planted.publish();
    planted.record.delivered(planted.group, "m/1", 1, false);
    assert_eq!(planted.record.missing(planted.group), 1);
    assert_eq!(planted.judge(planted.group), [Fault::MessageLost]);
    assert_eq!(planted.judge(planted.group), [Fault::MessageLost]);
}

#[test]
fn a_second_delivery_is_found_where_exactly_one_is_due() {
    for member_of_group in [false, true] {
        let mut planted = planted();
        planted.publish();
        let audience = if member_of_group { planted.group } else { planted.exact };
        planted.record.delivered(audience, "m/1", 0, false);
        planted.record.delivered(audience, "m/1", 0, true);
        assert_eq!(planted.faults(), [Fault::Twice]);
    }
}

#[test]
fn a_repetition_without_dup_is_found_unless_it_was_sent_twice() {
    let mut planted = planted();
    planted.publish();
    planted.record.delivered(planted.least, "m/1", 0, false);
    planted.record.sending_again(planted.topic, 0);
    planted.record.delivered(planted.least, "m/1", 0, false);
    assert_eq!(planted.faults(), []);
    planted.record.delivered(planted.least, "m/1", 0, false);
    assert_eq!(planted.faults(), [Fault::WithoutDup]);
}

#[test]
fn a_wrong_order_is_found_in_first_deliveries_only() {
    let mut planted = planted();
    planted.publish();
    planted.publish();
    planted.publish();
    planted.record.delivered(planted.least, "m/1", 0, false);
    planted.record.delivered(planted.least, "m/1", 2, false);
    planted.record.begins(planted.least);
    planted.record.delivered(planted.least, "m/1", 0, true);
    planted.record.delivered(planted.group, "m/1", 2, false);
    planted.record.delivered(planted.group, "m/1", 1, false);
    assert_eq!(planted.faults(), []);
    planted.record.delivered(planted.least, "m/1", 1, false);
    assert_eq!(planted.faults(), [Fault::OutOfOrder]);
}

#[test]
fn a_wrong_order_is_found_among_repetitions_on_one_connection() {
    let mut planted = planted();
    planted.publish();
    planted.publish();
    for dup in [false, true] {
        planted.record.begins(planted.least);
        planted.record.delivered(planted.least, "m/1", 0, dup);
        planted.record.delivered(planted.least, "m/1", 1, dup);
    }
    planted.record.begins(planted.least);
    planted.record.delivered(planted.least, "m/1", 1, true);
    assert_eq!(planted.faults(), []);
    planted.record.delivered(planted.least, "m/1", 0, true);
    assert_eq!(planted.faults(), [Fault::OutOfOrder]);
}

#[test]
fn an_invented_message_is_found() {
    let mut planted = planted();
    planted.record.delivered(planted.least, "m/1", 0, false);
    assert_eq!(planted.faults(), [Fault::Invented]);
    planted.record.retained(planted.topic, Some(0), None);
    assert_eq!(planted.faults(), [Fault::Invented; 2]);
}

#[test]
fn a_subscription_is_held_to_what_was_acknowledged_of_it() {
    let mut planted = planted();
    let least = planted.least;
    let before_the_end = planted.publish();
    planted.record.unsubscribing(least, "m/+");
    let between = planted.publish();
    planted.record.unsubscribed(least, "m/+");
    let after = planted.publish();
    planted.record.subscribing(least, "m/+");
    let open = planted.publish();
    planted.record.delivered(least, "m/1", between, false);
    planted.record.delivered(least, "m/1", open, false);
    assert_eq!(planted.faults(), []);
    assert_eq!(planted.judge(least), [Fault::MessageLost]);
    assert!(planted.record.violations[0].what.ends_with(&format!(" {before_the_end}")));
    assert_eq!(planted.record.totals.not_due, 1);
    planted.record.subscribed(least, "m/+");
    let last = planted.publish();
    planted.record.delivered(least, "m/1", last, false);
    assert_eq!(planted.faults().len(), 1);
    planted.record.violations.clear();
    let mut group = planted.record.audience("late", false, true);
    planted.record.subscribing(group, "m/1");
    planted.record.delivered(group, "m/1", after, false);
    group = planted.record.audience("never", false, true);
    planted.record.delivered(group, "m/1", after, false);
    assert_eq!(planted.faults(), [Fault::NotSubscribed; 2]);
}

#[test]
fn a_lost_session_is_found() {
    let mut record = Record::default();
    let client = record.client("c");
    record.connected(client, false);
    record.connected(client, true);
    assert!(record.violations.is_empty());
    record.connected(client, false);
    assert_eq!(record.violations[0].fault, Fault::SessionLost);
}

#[test]
fn a_retained_message_that_is_older_than_the_acknowledged_one_is_found() {
    let mut planted = planted();
    planted.publish();
    planted.publish();
    planted.record.sending(planted.topic);
    let accepted = planted.record.last_accepted(planted.topic);
    assert_eq!(accepted, Some(1));
    planted.record.retained(planted.topic, Some(1), accepted);
    planted.record.retained(planted.topic, Some(2), accepted);
    assert_eq!(planted.faults(), []);
    planted.record.retained(planted.topic, Some(0), accepted);
    planted.record.retained(planted.topic, None, accepted);
    assert_eq!(planted.faults(), [Fault::RetainedLost; 2]);
}

#[test]
fn filters_match_as_they_should() {
    assert!(matches("m/+/2", "m/1/2") && matches("m/#", "m/1/2") && matches("m/1", "m/1"));
    assert!(!matches("m/+", "m/1/2") && !matches("m/1/2", "m/1") && !matches("n/#", "m/1"));
}

#[test]
fn a_late_message_is_right_if_it_was_sent_again_to_a_new_subscription_only() {
    for subscribed_between in [true, false] {
        let mut planted = planted();
        let first = planted.record.sending(planted.topic);
        if subscribed_between {
            planted.record.unsubscribing(planted.least, "m/+");
            planted.record.unsubscribed(planted.least, "m/+");
            planted.record.subscribing(planted.least, "m/+");
            planted.record.subscribed(planted.least, "m/+");
        }
        let second = planted.record.sending(planted.topic);
        planted.record.delivered(planted.least, "m/1", second, false);
        planted.record.sending_again(planted.topic, first);
        planted.record.delivered(planted.least, "m/1", first, false);
        let expected: &[Fault] = if subscribed_between { &[] } else { &[Fault::OutOfOrder] };
        assert_eq!(planted.faults(), expected);
    }
}
