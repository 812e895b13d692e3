//! A broker under attack and those who must not notice.

use crate::broker::{Broker, free_port};
use crate::listeners::certificates;
use crate::raw::Client;

/// A broker with a listener of each kind, and a pair of Clients on different workers that are
/// connected throughout.
pub struct Siege {
    pub broker: Broker,
    pub port: u16,
    pub tls: u16,
    pub ws: u16,
    pub wss: u16,
    sender: Client,
    receiver: Client,
    sent: usize,
    rss_before: u64,
    rss_most: u64,
}

impl Siege {
    pub fn begin(settings: &str) -> Self {
        Self::begin_with(settings, "")
    }

    /// With tables too.
    pub fn begin_with(settings: &str, tables: &str) -> Self {
        let c = certificates().display();
        let [tls, ws, wss] = [(); 3].map(|()| free_port());
        let local = "bind_address = \"127.0.0.1\"";
        let server = format!("certfile = \"{c}/server.pem\"\nkeyfile = \"{c}/server.key\"");
        let listeners = format!(
            "[[listener]]\nport = {tls}\n{local}\n{server}\n\
             [[listener]]\nport = {ws}\n{local}\nprotocol = \"websockets\"\n\
             [[listener]]\nport = {wss}\n{local}\nprotocol = \"websockets\"\n{server}\n{tables}"
        );
        let broker = Broker::start_with(&format!("workers = 2\n{settings}"), &listeners);
        let port = broker.port;
        // One after the other, so that each worker has one.
        let mut receiver = Client::v5(port, "good-receiver");
        let sender = Client::v4(port, "good-sender");
        receiver.subscribe("good/+", 1);
        let mut siege = Self {
            broker,
            port,
            tls,
            ws,
            wss,
            sender,
            receiver,
            sent: 0,
            rss_before: 0,
            rss_most: 0,
        };
        siege.check();
        siege.rss_before = siege.broker.rss_kib();
        siege
    }

    /// The pair exchanges a message, and nothing else has come to its receiver.
    pub fn check(&mut self) {
        self.sent += 1;
        let text = self.sent.to_string();
        self.sender.publish(2, "good/x", &text);
        let received = self.receiver.receive();
        assert_eq!((&*received.topic, received.text()), ("good/x", &*text));
        self.rss_most = self.rss_most.max(self.broker.rss_kib());
    }

    /// The end of an attack: the broker lives, and has at no check held more than so much more
    /// memory than before the attack.
    pub fn survived(mut self, growth_mib_max: u64) {
        self.check();
        assert!(self.broker.is_running(), "{}", self.broker.log());
        let log = self.broker.log();
        assert!(!log.contains("panicked"), "{log}");
        println!("RSS before {} KiB, at most {} KiB", self.rss_before, self.rss_most);
        let growth = self.rss_most.saturating_sub(self.rss_before) / 1024;
        assert!(growth <= growth_mib_max, "the broker has grown by {growth} MiB");
    }
}
