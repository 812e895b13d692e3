//! A client that publishes, and after a lost connection does what the specification demands of
//! it: it sends again what is not acknowledged, with the same identifiers and in the first order
//! [MQTT-4.4.0-1].

use std::collections::VecDeque;
use std::io::Result;
use std::rc::Rc;

use tokio::time::{Duration, Instant, sleep_until};

use crate::field::{Field, Stage};
use crate::link::{Link, Packet};
use crate::raw::Connect;
use crate::record::{Client, Fault, Topic};

/// Exchanges at once.
const WINDOW: usize = 24;

/// Identifiers are taken in turn from 1 to this, so that each is used again soon.
const IDENTIFIERS: u16 = 60;

/// A topic and how it is published to.
#[derive(Clone)]
pub struct Outlet {
    pub topic: Topic,
    pub name: String,
    pub qos: u8,
    pub retain: bool,
}

struct Exchange {
    id: u16,
    outlet: usize,
    number: usize,
    payload: Vec<u8>,
    /// QoS 2: PUBREC has come.
    is_released: bool,
}

pub struct Publisher {
    field: Rc<Field>,
    client: Client,
    connect: Connect,
    outlets: Vec<Outlet>,
    /// Which of them is used now. Often the same for a while: an acknowledgement must wait for its
    /// own commit, not only for those before it.
    outlet: usize,
    /// In the order of first sending.
    open: VecDeque<Exchange>,
    last_id: u16,
}

impl Publisher {
    pub fn new(field: &Rc<Field>, client: Client, connect: Connect, outlets: Vec<Outlet>) -> Self {
        let open = VecDeque::new();
        Self { field: field.clone(), client, connect, outlets, outlet: 0, open, last_id: 0 }
    }

    pub async fn run(mut self) {
        while let Some(mut link) = self.field.connect(self.client, &self.connect).await {
            self.field.publishers_online.set(self.field.publishers_online.get() + 1);
            let _ = self.serve(&mut link).await;
            self.field.publishers_online.set(self.field.publishers_online.get() - 1);
            self.field.noticed.notify_one();
        }
    }

    /// Until the connection or the test ends.
    async fn serve(&mut self, link: &mut Link) -> Result<()> {
        let mut stage = self.field.stage();
        let _ = stage.wait_for(|stage| *stage != Stage::Look).await;
        self.send_again(link);
        link.flush().await?;
        let mut next_at = Instant::now();
        loop {
            let now = *stage.borrow_and_update();
            if now == Stage::Over {
                return Ok(());
            }
            let has_room = self.open.len() < WINDOW && self.field.budget.get() > 0;
            let may_send = now == Stage::Load && has_room;
            tokio::select! {
                packet = link.next() => self.handle(packet?, link),
                () = sleep_until(next_at), if may_send => {
                    self.send_some(link);
                    let pause_us = self.field.below(0, 8_000);
                    next_at = Instant::now() + Duration::from_micros(pause_us);
                }
                _ = stage.changed() => {}
            }
            self.field.noticed.notify_one();
            link.flush().await?;
        }
    }

    fn send_again(&self, link: &mut Link) {
        for exchange in &self.open {
            let outlet = &self.outlets[exchange.outlet];
            if exchange.is_released {
                link.acknowledge(0x62, exchange.id);
            } else {
                self.field.record().sending_again(outlet.topic, exchange.number);
                let flags = 8 | outlet.qos << 1 | u8::from(outlet.retain);
                link.publish(flags, &outlet.name, exchange.id, &exchange.payload);
            }
        }
    }

    fn send_some(&mut self, link: &mut Link) {
        for _ in 0..self.field.below(1, 7) {
            if self.field.once_in(12) {
                self.outlet = self.field.below(0, self.outlets.len() as u64) as usize;
            }
            let at = self.outlet;
            let outlet = &self.outlets[at];
            let number = self.field.record().sending(outlet.topic);
            let padding_max = if self.field.once_in(20) { 6_000 } else { 300 };
            let padding = self.field.below(0, padding_max);
            let payload = format!("{number}:{}", "x".repeat(padding as usize)).into_bytes();
            let id = free_id(&self.open, self.last_id);
            self.last_id = id;
            let flags = outlet.qos << 1 | u8::from(outlet.retain);
            link.publish(flags, &outlet.name, id, &payload);
            self.open.push_back(Exchange { id, outlet: at, number, payload, is_released: false });
            self.field.exchanges_open.set(self.field.exchanges_open.get() + 1);
            self.field.budget.set(self.field.budget.get().saturating_sub(1));
        }
    }

    fn handle(&mut self, packet: Packet, link: &mut Link) {
        match packet {
            Packet::PubAck { id, reason } => {
                self.accepted(id, 1, reason);
                self.end(id);
            }
            Packet::PubRec { id, reason } => {
                if let Some(exchange) = self.accepted(id, 2, reason) {
                    exchange.is_released = true;
                    link.acknowledge(0x62, id);
                }
            }
            Packet::PubComp { id } => {
                let is_released = |e: &Exchange| e.id == id && e.is_released;
                assert!(self.open.iter().any(is_released), "a PUBCOMP for nothing: {id}");
                self.end(id);
            }
            Packet::Disconnect => {}
            other => panic!("a publisher is sent {other:?}"),
        }
    }

    /// The exchange with this identifier, now acknowledged, if it is of this QoS.
    fn accepted(&mut self, id: u16, qos: u8, reason: u8) -> Option<&mut Exchange> {
        let exchange = self.open.iter_mut().find(|exchange| exchange.id == id);
        let exchange = exchange.filter(|exchange| self.outlets[exchange.outlet].qos == qos);
        let mut record = self.field.record();
        let name = record.name(self.client).to_owned();
        match &exchange {
            Some(exchange) if reason < 0x80 => {
                record.accepted(self.outlets[exchange.outlet].topic, exchange.number);
            }
            Some(_) => record.violated(Fault::Refused, format!("{name}: PUBLISH {reason:#x}")),
            None => record.violated(Fault::Invented, format!("{name}: acknowledgement of {id}")),
        }
        exchange
    }

    fn end(&mut self, id: u16) {
        let before = self.open.len();
        self.open.retain(|exchange| exchange.id != id);
        let ended = before - self.open.len();
        self.field.exchanges_open.set(self.field.exchanges_open.get() - ended);
    }
}

/// The identifier after `last` that nothing is bound to [MQTT-2.2.1-3].
fn free_id(open: &VecDeque<Exchange>, last: u16) -> u16 {
    let after = (last + 1..=IDENTIFIERS).chain(1..=last);
    let is_free = |id: &u16| open.iter().all(|exchange| exchange.id != *id);
    after.into_iter().find(is_free).unwrap()
}
