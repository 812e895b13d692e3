//! Files that no mosquitto writes so easily: the bytes are made here.

use super::mosquitto::{self, Unreadable, state};
use super::plan::{Identities, plan};
use super::{ImportError, Report, Terms};
use crate::clock::Moment;
use crate::session::record::Record;
use crate::store::{Change, SessionId};

const NOW_S: i64 = 1_000_000;

/// A file in the making.
struct File(Vec<u8>);

impl File {
    fn new(version: u32) -> Self {
        let mut file = [&b"\0\xB5\0mosquitto db\0\0\0\0"[..], &version.to_be_bytes()].concat();
        let settings = [&[0; 8][..], &[1, 8], &[0; 6]].concat();
        put(&mut file, 1, &settings);
        Self(file)
    }

    fn client(mut self, id: &str, expires_s: i64, interval_s: u32, username: &str) -> Self {
        let len = |text: &str| (text.len() as u16).to_be_bytes();
        let lengths = [&[0, 0][..], &len(id), &[0, 0], &len(username), &[0; 4]].concat();
        let head = [&expires_s.to_le_bytes()[..], &interval_s.to_be_bytes()].concat();
        put(&mut self.0, 6, &[&head, &lengths, id.as_bytes(), username.as_bytes()].concat());
        self
    }

    fn message(mut self, number: u64, expires_s: i64, qos_retain: [u8; 2], topic: &str) -> Self {
        let numbers = [number.to_le_bytes(), expires_s.to_le_bytes()].concat();
        let topic_len = (topic.len() as u16).to_be_bytes();
        let lengths = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &topic_len, &[0, 0]].concat();
        put(
            &mut self.0,
            2,
            &[&numbers, &lengths, &qos_retain[..], topic.as_bytes(), b"p"].concat(),
        );
        self
    }

    fn delivery(mut self, client: &str, number: u64, exchange: [u8; 4], incoming: bool) -> Self {
        let [packet_id, qos, state, flags] = exchange;
        let client_len = (client.len() as u16).to_be_bytes();
        let numbers = [&number.to_le_bytes()[..], &[0, packet_id], &client_len].concat();
        let flags = [qos, state, flags, u8::from(!incoming)];
        put(&mut self.0, 3, &[&numbers, &flags[..], client.as_bytes()].concat());
        self
    }

    fn subscription(mut self, client: &str, filter: &str, options: u8) -> Self {
        let len = |text: &str| (text.len() as u16).to_be_bytes();
        let lengths = [len(client), len(filter)].concat();
        let options = [options & 3, options & !3, 0, 0];
        let texts = [client.as_bytes(), filter.as_bytes()].concat();
        put(&mut self.0, 5, &[&[0; 4], &lengths[..], &options, &texts].concat());
        self
    }

    fn retained(mut self, number: u64) -> Self {
        put(&mut self.0, 4, &number.to_le_bytes());
        self
    }

    fn plan(&self) -> (Vec<Change>, Report) {
        planned(&self.0).expect("it can be planned")
    }
}

fn put(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    file.extend(kind.to_be_bytes());
    file.extend((body.len() as u32).to_be_bytes());
    file.extend(body);
}

fn planned(file: &[u8]) -> Result<(Vec<Change>, Report), ImportError> {
    let dump = mosquitto::read(file).expect("it can be read");
    let (mut messages, mut sessions) = (0, 0);
    let message = || {
        messages += 1;
        messages
    };
    let session = || {
        sessions += 1;
        SessionId(sessions)
    };
    let terms = Terms { now: Moment::default().after_s(NOW_S as u64), knows_users: true };
    plan(&dump, terms, Identities { message, session })
}

/// The topics of a Session's queue in the order of the messages' identities.
fn queue(changes: &[Change], session: u32) -> Vec<String> {
    let mut queue: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Message { message, targets } => Some((message, targets)),
            _ => None,
        })
        .flat_map(|(message, targets)| targets.iter().map(move |target| (message, target)))
        .filter(|(_, target)| target.session.0 == session)
        .map(|(message, _)| (message.id(), message.topic_str().to_owned()))
        .collect();
    queue.sort_unstable();
    queue.into_iter().map(|(_, topic)| topic).collect()
}

fn records(changes: &[Change]) -> Vec<Record> {
    let record = |change: &Change| match change {
        Change::SessionPut { record, .. } => Record::decode(record),
        _ => None,
    };
    changes.iter().filter_map(record).collect()
}

const FOR_EVER: u32 = u32::MAX;
const QUEUED: u8 = state::QUEUED;

#[test]
fn each_queue_keeps_its_order_and_shares_what_it_can() {
    let mut file = File::new(6).client("a", 0, FOR_EVER, "").client("b", 0, FOR_EVER, "");
    for number in 1..=4 {
        file = file.message(number, 0, [1, 0], &format!("t{number}"));
    }
    // What is retained may stand behind what is newer; and a message may be there twice.
    for number in [2, 3, 1, 1, 4] {
        file = file.delivery("a", number, [0, 1, QUEUED, 0], false);
    }
    for number in [1, 2, 3, 4] {
        file = file.delivery("b", number, [0, 1, QUEUED, 0], false);
    }
    let (changes, report) = file.plan();
    assert_eq!(queue(&changes, 1), ["t2", "t3", "t1", "t1", "t4"]);
    assert_eq!(queue(&changes, 2), ["t1", "t2", "t3", "t4"]);
    let messages = changes.iter().filter(|c| matches!(c, Change::Message { .. })).count();
    assert_eq!((messages, report.deliveries), (6, 9));
}

#[test]
fn what_has_expired_and_what_is_not_mqtt_is_left_out_and_told() {
    let (changes, report) = File::new(6)
        .client("a", NOW_S + 100, 3600, "ali")
        .client("over", NOW_S - 1, 3600, "")
        .client("at once", 0, 0, "")
        .client("a", 0, 60, "")
        .client("", 0, 60, "")
        .subscription("a", "t/#", 1 | 4 | 8 | 0x20)
        .subscription("a", "#/t", 1)
        .subscription("a", "$share/g/t", 1)
        .subscription("over", "t/#", 1)
        .subscription("nobody", "t/#", 1)
        .message(1, NOW_S - 5, [1, 1], "t/old")
        .message(2, NOW_S + 5, [1, 1], "t/young")
        .message(3, 0, [1, 1], "t/+")
        .message(4, 0, [3, 0], "t/3")
        .message(5, -1, [1, 1], "t/before")
        .message(6, 0, [0, 1], "$SYS/broker/uptime")
        .delivery("a", 1, [0, 1, QUEUED, 0], false)
        .delivery("a", 2, [0, 1, QUEUED, 0x10], false)
        .delivery("a", 2, [0, 0, 1, 0], false)
        .delivery("a", 2, [0, 2, 99, 0], false)
        .delivery("a", 2, [0, 1, 3, 0], true)
        .delivery("a", 77, [0, 1, QUEUED, 0], false)
        .retained(1)
        .retained(2)
        .retained(6)
        .retained(77)
        .plan();
    let [record] = &records(&changes)[..] else { panic!("{changes:?}") };
    assert_eq!((&*record.client_id, record.owner.as_deref()), ("a", Some("ali")));
    let began = Moment::default().after_s(NOW_S as u64 + 100 - 3600);
    assert_eq!((record.expiry_s, record.disconnected_at), (3600, Some(began)));
    assert_eq!((report.sessions, report.subscriptions, report.retained), (1, 1, 1));
    assert_eq!(report.deliveries, 1);
    let left: Vec<_> = report.left_out.into_iter().collect();
    assert_eq!(
        left,
        [
            ("Sessions of Clients that are there twice", 1),
            ("Sessions that have expired", 2),
            ("Sessions with an identifier that is not MQTT's", 1),
            ("Shared Subscriptions", 1),
            ("messages in a state that is not known", 2),
            ("messages of QoS 0 that waited", 1),
            ("messages that are not MQTT's", 2),
            ("messages that have expired", 2),
            ("subscriptions of Clients that are not in the file", 1),
            ("subscriptions that are not MQTT's", 1),
        ]
    );
    assert!(changes.iter().any(|change| match change {
        Change::Message { message, targets } =>
            message.expires_at() == Moment::default().after_s(NOW_S as u64 + 5)
                && targets[0].flags == 1 | 4,
        _ => false,
    }));
}

#[test]
fn an_incoming_message_of_qos_2_is_distributed_as_its_subscriptions_ask() {
    let (changes, report) = File::new(6)
        .client("giver", 0, FOR_EVER, "")
        .client("a", 0, FOR_EVER, "")
        .subscription("giver", "t/#", 2 | 4)
        .subscription("a", "t/#", 1 | 8)
        .subscription("a", "t/x", 2)
        .message(9, 0, [2, 1], "t/x")
        .message(8, 0, [1, 0], "t/late")
        .delivery("giver", 9, [5, 2, state::WAITS_FOR_PUBREL, 0], true)
        .delivery("giver", 9, [5, 2, state::WAITS_FOR_PUBREL, 0], true)
        .delivery("a", 8, [0, 1, QUEUED, 0], false)
        .plan();
    assert_eq!(queue(&changes, 2), ["t/late", "t/x"], "behind what waits");
    assert!(queue(&changes, 1).is_empty(), "No Local");
    let is_received = |change: &&Change| {
        matches!(change, Change::Received { session: SessionId(1), packet_id: 5 })
    };
    assert_eq!(changes.iter().filter(is_received).count(), 1);
    assert_eq!((report.incoming, report.deliveries, report.retained), (1, 2, 1));
    let targets = changes.iter().find_map(|change| match change {
        Change::Message { message, targets } if message.topic_str() == "t/x" => Some(targets),
        _ => None,
    });
    assert_eq!(targets.unwrap()[0].flags, 2 | 4);
}

#[test]
fn an_exchange_that_has_begun_keeps_its_identifier() {
    let sent = |exchange: [u8; 4]| {
        let file = File::new(6).client("a", 0, FOR_EVER, "").message(1, 0, [2, 0], "t");
        let (changes, _) = file.delivery("a", 1, exchange, false).plan();
        changes.into_iter().find_map(|change| match change {
            Change::Sent { packet_id, message, .. } => Some((packet_id, message)),
            _ => None,
        })
    };
    assert_eq!(sent([7, 1, state::WAITS_FOR_PUBACK, 0]), Some((7, 1)));
    assert_eq!(sent([7, 2, state::WAITS_FOR_PUBREC, 0]), Some((7, 1)));
    // To be sent again, and for the first time.
    assert_eq!(sent([7, 2, state::PUBLISH[2], 1]), Some((7, 1)));
    assert_eq!(sent([7, 2, state::PUBLISH[2], 0]), None);
    assert_eq!(sent([7, 2, state::WAITS_FOR_PUBCOMP, 1]), Some((7, 0)));
    assert_eq!(sent([7, 2, state::RESENDS_PUBREL, 1]), Some((7, 0)));
    assert_eq!(sent([0, 2, state::WAITS_FOR_PUBREC, 0]), None);
}

#[test]
fn a_large_message_cannot_be_multiplied_without_end() {
    let payload = vec![0; 1 << 20];
    let mut file = File::new(6).client("a", 0, FOR_EVER, "");
    let numbers = [1_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    let lengths = [&(1_u32 << 20).to_be_bytes()[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0]].concat();
    put(&mut file.0, 2, &[&numbers, &lengths, &b"\x01\0t"[..], &payload].concat());
    for _ in 0..1030 {
        file = file.delivery("a", 1, [0, 1, QUEUED, 0], false);
    }
    assert!(matches!(planned(&file.0), Err(ImportError::TooManyCopies)));
}

#[test]
fn a_file_of_version_5_has_no_user_names() {
    let mut file = File::new(5);
    let client = [&0_u64.to_le_bytes()[..], &[0xFF; 4], &[0, 0, 0, 1], b"a"].concat();
    put(&mut file.0, 6, &client);
    let (changes, report) = file.plan();
    assert_eq!((report.version, report.sessions), (5, 1));
    assert!(report.to_string().contains("owners of Sessions, since the file names none"));
    assert_eq!(&*records(&changes)[0].client_id, "a");
    assert_eq!(records(&changes)[0].owner, None);
}

/// Whichever byte is another, it is refused as a whole or means something else.
#[test]
fn a_file_with_a_changed_byte_is_read_or_refused() {
    let kept: [&[u8]; 2] = [
        include_bytes!("../../tests/data/mosquitto/version-5.db"),
        include_bytes!("../../tests/data/mosquitto/version-6.db"),
    ];
    for file in kept {
        let mut refused = 0;
        for at in 0..file.len() {
            let mut changed = file.to_vec();
            changed[at] ^= 0xFF;
            let is_read = mosquitto::read(&changed).is_ok();
            refused += usize::from(!is_read || planned(&changed).is_err());
        }
        assert!(refused > 100, "{refused} of {}", file.len());
    }
}

#[test]
fn a_file_that_does_not_add_up_is_refused_wherever_it_ends() {
    let file = File::new(6)
        .client("a", 0, FOR_EVER, "ali")
        .subscription("a", "t", 1)
        .message(1, 0, [1, 0], "t")
        .delivery("a", 1, [1, 1, QUEUED, 0], false)
        .retained(1);
    let whole = (0..=file.0.len()).filter(|&len| mosquitto::read(&file.0[..len]).is_ok()).count();
    // After the head, and after each of six chunks.
    assert_eq!(whole, 7);
    for version in [0, 1, 2, 3, 4, 7, u32::MAX] {
        let read = mosquitto::read(&File::new(version).0).map(|_| ());
        assert_eq!(read, Err(Unreadable::Version(version)));
    }
    for (kind, body) in
        [(2, &[0; 31][..]), (3, &[0; 15]), (4, &[0; 7]), (5, &[0; 11]), (6, &[0; 9])]
    {
        let mut file = File::new(6).0;
        let at = file.len();
        put(&mut file, kind, body);
        let read = mosquitto::read(&file).map(|_| ());
        assert!(matches!(read, Err(Unreadable::Damaged { at: found, .. }) if found == at));
    }
    let mut file = File::new(6).0;
    put(&mut file, 99, b"whatever");
    assert_eq!(mosquitto::read(&file).unwrap().unknown, 1);
}
