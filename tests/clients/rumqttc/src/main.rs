//! rumqttc, the client library of Rust; the contract is that of contract.py.

mod client;

use std::time::Duration;

use bytes::Bytes;
use client::{Client, Message, Outcome, Wish};

const VERSION: &str = "0.25.1";
const CHECKS: [&str; 8] = [
    "QoS 0",
    "QoS 1",
    "QoS 2",
    "retained",
    "will",
    "session resumed",
    "cut in flight",
    "shared subscription",
];
const CHECKS_OF_5: [&str; 6] = [
    "User Properties",
    "request and response",
    "message expiry",
    "reason of PUBACK",
    "reason of UNSUBACK",
    "reason of DISCONNECT",
];

/// One check in one version over one transport.
#[derive(Clone)]
struct Stage {
    version: &'static str,
    transport: &'static str,
    check: &'static str,
    topic: String,
}

fn same<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(format!("{got:?}, not {expected:?}").chars().take(200).collect())
}

fn message(topic: &str, text: impl ToString, qos: u8) -> Message {
    Message { topic: topic.to_owned(), text: text.to_string(), qos, ..Message::default() }
}

impl Stage {
    fn wish(&self, name: &str) -> Wish<'_> {
        let name = format!("{}/{name}", self.topic);
        Wish { version: self.version, transport: self.transport, name, ..Wish::default() }
    }

    async fn open(&self, name: &str) -> Outcome<Client> {
        Client::open(&self.wish(name)).await
    }

    async fn durable(&self) -> Outcome<Client> {
        Client::open(&Wish { durable: true, ..self.wish("d") }).await
    }

    async fn subscriber(&self, name: &str, filter: &str, qos: u8) -> Outcome<Client> {
        let mut client = self.open(name).await?;
        same(client.subscribe(filter, qos).await?, qos)?;
        Ok(client)
    }

    async fn run(&self) -> Outcome {
        match self.check {
            "QoS 0" => self.qos(0).await,
            "QoS 1" => self.qos(1).await,
            "QoS 2" => self.qos(2).await,
            "retained" => self.retained().await,
            "will" => self.will().await,
            "session resumed" => self.session_resumed().await,
            "shared subscription" => self.shared_subscription().await,
            "User Properties" => self.user_properties().await,
            "request and response" => self.request_and_response().await,
            "message expiry" => self.message_expiry().await,
            "reason of PUBACK" => self.reason_of_puback().await,
            "reason of UNSUBACK" => self.reason_of_unsuback().await,
            "reason of DISCONNECT" => self.reason_of_disconnect().await,
            other => Err(format!("there is no check {other}")),
        }
    }

    async fn qos(&self, qos: u8) -> Outcome {
        let mut receiver = self.subscriber("r", &self.topic, 2).await?;
        let mut sender = self.open("s").await?;
        for text in ["small".to_owned(), "large".repeat(if qos > 0 { 10_000 } else { 2 })] {
            sender.publish(message(&self.topic, &text, qos)).await?;
            let got = receiver.receive().await?;
            same((got.qos, got.text, &got.topic), (qos, text, &self.topic))?;
        }
        Ok(())
    }

    async fn retained(&self) -> Outcome {
        let mut early = self.subscriber("early", &self.topic, 1).await?;
        let mut sender = self.open("s").await?;
        sender.publish(Message { retain: true, ..message(&self.topic, "kept", 1) }).await?;
        let got = early.receive().await?;
        same((&*got.text, got.retain), ("kept", false))?;
        let got = self.subscriber("late", &self.topic, 1).await?.receive().await?;
        same((&*got.text, got.retain), ("kept", true))?;
        sender.publish(Message { retain: true, ..message(&self.topic, "", 1) }).await?;
        let mut after = self.subscriber("after", &self.topic, 1).await?;
        sender.publish(message(&self.topic, "live", 1)).await?;
        let got = after.receive().await?;
        same((&*got.text, got.retain), ("live", false))
    }

    async fn will(&self) -> Outcome {
        let mut watcher = self.subscriber("watcher", &self.topic, 1).await?;
        let will = Some((&*self.topic, "disconnected"));
        Client::open(&Wish { will, ..self.wish("calm") }).await?.close().await?;
        let will = Some((&*self.topic, "cut"));
        Client::open(&Wish { will, ..self.wish("gone") }).await?.cut().await;
        let got = watcher.receive().await?;
        same((&*got.text, got.qos), ("cut", 1))
    }

    async fn session_resumed(&self) -> Outcome {
        let mut durable = self.durable().await?;
        same(durable.session_present, false)?;
        same(durable.subscribe(&self.topic, 2).await?, 2)?;
        durable.close().await?;
        let mut sender = self.open("s").await?;
        for n in 0..20 {
            sender.publish(message(&self.topic, n, 1 + n % 2)).await?;
        }
        let mut durable = self.durable().await?;
        same(durable.session_present, true)?;
        sender.publish(message(&self.topic, "end", 2)).await?;
        // The library shows every PUBLISH as it comes.
        for n in 0..20 {
            let got = durable.receive().await?;
            same((got.text, got.qos), (n.to_string(), 1 + n % 2))?;
        }
        same(&*durable.receive().await?.text, "end")
    }

    async fn shared_subscription(&self) -> Outcome {
        let filter = format!("$share/g/{}", self.topic);
        let mut members =
            [self.subscriber("m1", &filter, 1).await?, self.subscriber("m2", &filter, 1).await?];
        let mut sender = self.open("s").await?;
        for n in 0..20 {
            sender.publish(message(&self.topic, n, 1)).await?;
        }
        let mut got = vec![];
        for member in &mut members {
            for _ in 0..10 {
                got.push(member.receive().await?.text.parse::<u8>().map_err(client::text)?);
            }
        }
        got.sort_unstable();
        same(got, (0..20).collect())?;
        // What comes next is new: no member holds a second copy.
        for _ in 0..2 {
            sender.publish(message(&self.topic, "end", 1)).await?;
        }
        for member in &mut members {
            same(&*member.receive().await?.text, "end")?;
        }
        Ok(())
    }

    async fn user_properties(&self) -> Outcome {
        let mut receiver = self.subscriber("r", &self.topic, 1).await?;
        let mut sender = self.open("s").await?;
        let pairs = [("a", "1"), ("a", "2"), ("größe", "ß")];
        let user: Vec<_> = pairs.map(|(name, value)| (name.into(), value.into())).into();
        sender.publish(Message { user: user.clone(), ..message(&self.topic, "x", 1) }).await?;
        same(receiver.receive().await?.user, user)
    }

    async fn request_and_response(&self) -> Outcome {
        let answers = format!("{}/answers", self.topic);
        let mut asker = self.subscriber("asker", &answers, 1).await?;
        let mut answerer = self.subscriber("answerer", &self.topic, 1).await?;
        let mut sender = self.open("s").await?;
        let correlation = Some(Bytes::from_static(b"4,2"));
        let request = Message {
            response_topic: Some(answers.clone()),
            correlation: correlation.clone(),
            ..message(&self.topic, "?", 1)
        };
        sender.publish(request).await?;
        let request = answerer.receive().await?;
        same(request.response_topic.as_ref(), Some(&answers))?;
        let answer = Message { correlation: request.correlation, ..message(&answers, "!", 1) };
        sender.publish(answer).await?;
        same(asker.receive().await?.correlation, correlation)
    }

    async fn message_expiry(&self) -> Outcome {
        let expiring = |n, text, seconds, retain| Message {
            expiry: Some(seconds),
            retain,
            ..message(&format!("{}/{n}", self.topic), text, 1)
        };
        let mut sender = self.open("s").await?;
        sender.publish(expiring(1, "stale", 1, true)).await?;
        sender.publish(expiring(2, "fresh", 100, true)).await?;
        // Time itself is what is waited for.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut receiver = self.subscriber("r", &format!("{}/+", self.topic), 1).await?;
        let is = |got: Message, text, range: std::ops::RangeInclusive<u32>| {
            same((&*got.text, got.expiry.is_some_and(|s| range.contains(&s))), (text, true))
        };
        is(receiver.receive().await?, "fresh", 50..=98)?;
        sender.publish(expiring(3, "live", 100, false)).await?;
        is(receiver.receive().await?, "live", 50..=100)
    }

    async fn reason_of_puback(&self) -> Outcome {
        let mut sender = self.open("s").await?;
        same(sender.publish(message(&self.topic, "nobody", 1)).await?, 0x10)?;
        let _receiver = self.subscriber("r", &self.topic, 1).await?;
        same(sender.publish(message(&self.topic, "somebody", 1)).await?, 0)
    }

    async fn reason_of_unsuback(&self) -> Outcome {
        let mut client = self.subscriber("r", &self.topic, 1).await?;
        same(client.unsubscribe(&self.topic).await?, 0)?;
        same(client.unsubscribe(&self.topic).await?, 0x11)
    }

    async fn reason_of_disconnect(&self) -> Outcome {
        let mut first = self.open("same").await?;
        let _second = self.open("same").await?;
        let why = first.ended().await?;
        if why.contains("SessionTakenOver") { Ok(()) } else { Err(why) }
    }

    fn cannot(&self) -> Option<&'static str> {
        match (self.version, self.check) {
            ("3.1", _) => Some("the library speaks 3.1.1 and 5"),
            (_, "cut in flight") => {
                Some("the library forgets at a reconnection which QoS 2 messages it has received")
            }
            _ => None,
        }
    }

    async fn report(self) {
        let Self { version, transport, check, .. } = &self;
        if let Some(why) = self.cannot() {
            println!("skip {version} {transport} {check}: {why}");
            return;
        }
        match self.run().await {
            Ok(()) => println!("ok {version} {transport} {check}"),
            Err(why) => println!("not ok {version} {transport} {check}: {why}"),
        }
    }
}

async fn column(version: &'static str, transport: &'static str) {
    let of_5 = if version == "5" { &CHECKS_OF_5[..] } else { &[] };
    let mut waiting = None;
    for check in CHECKS.iter().chain(of_5) {
        let topic = format!("rumqttc/{version}/{transport}/{check}").replace(' ', "-");
        let stage = Stage { version, transport, check, topic };
        // The one that waits for time does so beside the others.
        if *check == "message expiry" {
            waiting = Some(tokio::task::spawn_local(stage.report()));
        } else {
            stage.report().await;
        }
    }
    if let Some(waiting) = waiting {
        waiting.await.unwrap();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("client rumqttc {VERSION}");
    let columns = async {
        let mut tasks = vec![];
        for version in ["3.1", "3.1.1", "5"] {
            for transport in ["TCP", "TLS", "WS", "WSS"] {
                tasks.push(tokio::task::spawn_local(column(version, transport)));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    tokio::task::LocalSet::new().run_until(columns).await;
}
