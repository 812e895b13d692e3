//! rumqttc's two clients, for 3.1.1 and for 5, behind one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as p5;
use rumqttc::{TlsConfiguration, Transport, mqttbytes::v4 as p4};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(60);
const PACKET_BYTES_MAX: usize = 1 << 20;

pub type Outcome<T = ()> = Result<T, String>;

/// Any error as its text.
pub fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Outcome<T> {
    let late = |_| format!("{what}: nothing in {PATIENCE:?}");
    tokio::time::timeout(PATIENCE, future).await.map_err(late)
}

/// An Application Message, sent or received.
#[derive(Debug, Default)]
pub struct Message {
    pub topic: String,
    pub text: String,
    pub qos: u8,
    pub retain: bool,
    pub user: Vec<(String, String)>,
    pub response_topic: Option<String>,
    pub correlation: Option<Bytes>,
    pub expiry: Option<u32>,
}

/// What a check wants of a client.
#[derive(Default)]
pub struct Wish<'a> {
    pub version: &'a str,
    pub transport: &'a str,
    pub name: String,
    pub durable: bool,
    /// Topic and text.
    pub will: Option<(&'a str, &'a str)>,
}

/// What an event loop tells.
#[derive(Debug)]
enum Event {
    Connected {
        session_present: bool,
    },
    Message(Message),
    /// The Reason Code of a SUBACK, UNSUBACK, PUBACK or PUBCOMP.
    Answer(u8),
    Other,
}

enum Handle {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

pub struct Client {
    handle: Handle,
    pub session_present: bool,
    messages: UnboundedReceiver<Message>,
    answers: UnboundedReceiver<u8>,
    /// Ends with the connection, and knows why it ended.
    task: JoinHandle<String>,
}

fn tls() -> TlsConfiguration {
    let ca = CertificateDer::from_pem_file(std::env::var("CA").unwrap()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    TlsConfiguration::Rustls(Arc::new(config.with_no_client_auth()))
}

fn target(transport: &str) -> (String, u16, Transport) {
    let port: u16 = std::env::var(transport).unwrap().parse().unwrap();
    match transport {
        "TLS" => ("localhost".into(), port, Transport::Tls(tls())),
        "WS" => (format!("ws://localhost:{port}/mqtt"), port, Transport::Ws),
        "WSS" => (format!("wss://localhost:{port}/mqtt"), port, Transport::Wss(tls())),
        _ => ("localhost".into(), port, Transport::Tcp),
    }
}

fn patient() -> rumqttc::NetworkOptions {
    let mut options = rumqttc::NetworkOptions::new();
    options.set_connection_timeout(PATIENCE.as_secs());
    options
}

fn v4(wish: &Wish<'_>) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    let (host, port, transport) = target(wish.transport);
    let mut options = rumqttc::MqttOptions::new(&wish.name, host, port);
    options.set_transport(transport);
    options.set_clean_session(!wish.durable);
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some((topic, text)) = wish.will {
        options.set_last_will(rumqttc::LastWill::new(topic, text, qos4(1), false));
    }
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    events.set_network_options(patient());
    (client, events)
}

fn v5(wish: &Wish<'_>) -> (rumqttc::v5::AsyncClient, rumqttc::v5::EventLoop) {
    let (host, port, transport) = target(wish.transport);
    let mut options = rumqttc::v5::MqttOptions::new(&wish.name, host, port);
    options.set_transport(transport);
    options.set_clean_start(!wish.durable);
    options.set_session_expiry_interval(wish.durable.then_some(300));
    options.set_max_packet_size(Some(PACKET_BYTES_MAX as u32));
    options.set_network_options(patient());
    options.set_connection_timeout(PATIENCE.as_secs());
    if let Some((topic, text)) = wish.will {
        options.set_last_will(p5::LastWill::new(topic, text, qos5(1), false, None));
    }
    rumqttc::v5::AsyncClient::new(options, 10)
}

fn qos4(qos: u8) -> rumqttc::QoS {
    rumqttc::mqttbytes::qos(qos).unwrap()
}

fn qos5(qos: u8) -> rumqttc::v5::mqttbytes::QoS {
    rumqttc::v5::mqttbytes::qos(qos).unwrap()
}

fn event4(event: rumqttc::Event) -> Event {
    let rumqttc::Event::Incoming(packet) = event else { return Event::Other };
    match packet {
        p4::Packet::ConnAck(ack) => Event::Connected { session_present: ack.session_present },
        p4::Packet::SubAck(ack) => Event::Answer(match ack.return_codes[0] {
            p4::SubscribeReasonCode::Success(qos) => qos as u8,
            p4::SubscribeReasonCode::Failure => 0x80,
        }),
        p4::Packet::PubAck(_) | p4::Packet::PubComp(_) | p4::Packet::UnsubAck(_) => {
            Event::Answer(0)
        }
        p4::Packet::Publish(publish) => Event::Message(Message {
            topic: publish.topic,
            text: String::from_utf8(publish.payload.to_vec()).unwrap(),
            qos: publish.qos as u8,
            retain: publish.retain,
            ..Message::default()
        }),
        _ => Event::Other,
    }
}

fn event5(event: rumqttc::v5::Event) -> Event {
    let rumqttc::v5::Event::Incoming(packet) = event else { return Event::Other };
    match packet {
        p5::Packet::ConnAck(ack) => Event::Connected { session_present: ack.session_present },
        p5::Packet::SubAck(ack) => Event::Answer(match ack.return_codes[0] {
            p5::SubscribeReasonCode::Success(qos) => qos as u8,
            _ => 0x80,
        }),
        p5::Packet::UnsubAck(ack) => Event::Answer(match ack.reasons[0] {
            p5::UnsubAckReason::Success => 0,
            p5::UnsubAckReason::NoSubscriptionExisted => 0x11,
            _ => 0x80,
        }),
        p5::Packet::PubAck(ack) => Event::Answer(match ack.reason {
            p5::PubAckReason::Success => 0,
            p5::PubAckReason::NoMatchingSubscribers => 0x10,
            _ => 0x80,
        }),
        p5::Packet::PubComp(_) => Event::Answer(0),
        p5::Packet::Publish(publish) => {
            let properties = publish.properties.unwrap_or_default();
            Event::Message(Message {
                topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                text: String::from_utf8(publish.payload.to_vec()).unwrap(),
                qos: publish.qos as u8,
                retain: publish.retain,
                user: properties.user_properties,
                response_topic: properties.response_topic,
                correlation: properties.correlation_data,
                expiry: properties.message_expiry_interval,
            })
        }
        _ => Event::Other,
    }
}

/// Passes events on until the connection ends; why it ended.
async fn forward(
    mut poll: impl AsyncFnMut() -> Outcome<Event>,
    mut connected: Option<tokio::sync::oneshot::Sender<bool>>,
    messages: UnboundedSender<Message>,
    answers: UnboundedSender<u8>,
) -> String {
    loop {
        match poll().await {
            Ok(Event::Connected { session_present }) => {
                if let Some(connected) = connected.take() {
                    let _ = connected.send(session_present);
                }
            }
            Ok(Event::Message(message)) => drop(messages.send(message)),
            Ok(Event::Answer(code)) => drop(answers.send(code)),
            Ok(Event::Other) => {}
            Err(why) => return why,
        }
    }
}

impl Client {
    pub async fn open(wish: &Wish<'_>) -> Outcome<Self> {
        let (message_in, messages) = unbounded_channel();
        let (answer_in, answers) = unbounded_channel();
        let (connected_in, connected) = tokio::sync::oneshot::channel();
        let connected_in = Some(connected_in);
        let (handle, task) = if wish.version == "5" {
            let (client, mut events) = v5(wish);
            let poll = async move || events.poll().await.map(event5).map_err(text);
            let task = tokio::task::spawn_local(forward(poll, connected_in, message_in, answer_in));
            (Handle::V5(client), task)
        } else {
            let (client, mut events) = v4(wish);
            let poll = async move || events.poll().await.map(event4).map_err(text);
            let task = tokio::task::spawn_local(forward(poll, connected_in, message_in, answer_in));
            (Handle::V4(client), task)
        };
        let mut client = Self { handle, session_present: false, messages, answers, task };
        match within("CONNACK", connected).await? {
            Ok(session_present) => client.session_present = session_present,
            Err(_) => return Err(client.ended().await?),
        }
        Ok(client)
    }

    async fn answer(&mut self) -> Outcome<u8> {
        let closed = || "the connection ended".to_owned();
        within("an answer", self.answers.recv()).await?.ok_or_else(closed)
    }

    /// Subscribes; the granted QoS.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> Outcome<u8> {
        match &self.handle {
            Handle::V4(client) => client.subscribe(filter, qos4(qos)).await.map_err(text)?,
            Handle::V5(client) => client.subscribe(filter, qos5(qos)).await.map_err(text)?,
        }
        self.answer().await
    }

    pub async fn unsubscribe(&mut self, filter: &str) -> Outcome<u8> {
        match &self.handle {
            Handle::V4(client) => client.unsubscribe(filter).await.map_err(text)?,
            Handle::V5(client) => client.unsubscribe(filter).await.map_err(text)?,
        }
        self.answer().await
    }

    /// Publishes and waits for PUBACK or PUBCOMP; its Reason Code.
    pub async fn publish(&mut self, message: Message) -> Outcome<u8> {
        let Message { topic, text: payload, qos, retain, .. } = message;
        match &self.handle {
            Handle::V4(client) => {
                client.publish(topic, qos4(qos), retain, payload).await.map_err(text)?;
            }
            Handle::V5(client) => {
                let properties = p5::PublishProperties {
                    user_properties: message.user,
                    response_topic: message.response_topic,
                    correlation_data: message.correlation,
                    message_expiry_interval: message.expiry,
                    ..p5::PublishProperties::default()
                };
                let qos = qos5(qos);
                let publish =
                    client.publish_with_properties(topic, qos, retain, payload, properties);
                publish.await.map_err(text)?;
            }
        }
        if qos == 0 { Ok(0) } else { self.answer().await }
    }

    pub async fn receive(&mut self) -> Outcome<Message> {
        let message = within("a message", self.messages.recv()).await?;
        message.ok_or_else(|| "the connection ended".to_owned())
    }

    /// Why the connection ended.
    pub async fn ended(&mut self) -> Outcome<String> {
        within("the end", &mut self.task).await?.map_err(text)
    }

    /// Ends the connection without DISCONNECT.
    pub async fn cut(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Sends DISCONNECT and waits until the broker has closed.
    pub async fn close(&mut self) -> Outcome {
        match &self.handle {
            Handle::V4(client) => client.disconnect().await.map_err(text)?,
            Handle::V5(client) => client.disconnect().await.map_err(text)?,
        }
        self.ended().await.map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}
