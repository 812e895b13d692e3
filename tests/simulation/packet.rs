//! Packets of MQTT 3.1.1 and 5.0 as the simulated Clients know them. Shares no code with the
//! broker.

/// The User Property with a message's priority.
pub const PRIORITY: &str = "priority";

/// A subscription in a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub filter: String,
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: u8,
}

/// A Will in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub delay_s: u32,
    pub expiry_s: Option<u32>,
}

/// A CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    pub client_id: String,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    pub expiry_s: u32,
    pub receive_maximum: Option<u16>,
    pub will: Option<Will>,
}

/// A PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    /// 0 with QoS 0.
    pub id: u16,
    pub expiry_s: Option<u32>,
    pub subscription_ids: Vec<u32>,
    /// What a declared queue says of it: its delivery count, and why it is a dead letter.
    pub count: Option<u32>,
    pub reason: Option<String>,
    /// For a declared queue that goes by it.
    pub priority: Option<u8>,
    pub payload: Vec<u8>,
}

/// A packet in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Connect(Connect),
    ConnAck { session_present: bool, reason: u8 },
    Publish(Publish),
    PubAck { id: u16, reason: u8 },
    PubRec { id: u16, reason: u8 },
    PubRel { id: u16, reason: u8 },
    PubComp { id: u16, reason: u8 },
    Subscribe { id: u16, subscription_id: Option<u32>, filters: Vec<Filter> },
    SubAck { id: u16, reasons: Vec<u8> },
    Unsubscribe { id: u16, filters: Vec<String> },
    UnsubAck { id: u16 },
    PingReq,
    PingResp,
    Disconnect { reason: u8, expiry_s: Option<u32> },
}

fn integer(mut n: usize) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let byte = (n & 127) as u8;
        n >>= 7;
        out.push(if n > 0 { byte | 128 } else { byte });
        if n == 0 {
            return out;
        }
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn block(v5: bool, properties: &[u8]) -> Vec<u8> {
    if v5 { [&integer(properties.len()), properties].concat() } else { vec![] }
}

fn number(id: u8, value: Option<u32>) -> Vec<u8> {
    value.map_or(vec![], |value| [&[id][..], &value.to_be_bytes()].concat())
}

impl Packet {
    /// Its bytes.
    pub fn encode(&self, v5: bool) -> Vec<u8> {
        let ack = |id: &u16, reason: &u8| {
            let [high, low] = id.to_be_bytes();
            if v5 && *reason != 0 { vec![high, low, *reason] } else { vec![high, low] }
        };
        let (first, body) = match self {
            Self::Connect(connect) => (0x10, connect.encode(v5)),
            Self::ConnAck { session_present, reason } => {
                (0x20, [&[u8::from(*session_present), *reason][..], &block(v5, &[])].concat())
            }
            Self::Publish(publish) => {
                let flags = u8::from(publish.dup) << 3 | publish.qos << 1;
                (0x30 | flags | u8::from(publish.retain), publish.encode(v5))
            }
            Self::PubAck { id, reason } => (0x40, ack(id, reason)),
            Self::PubRec { id, reason } => (0x50, ack(id, reason)),
            Self::PubRel { id, reason } => (0x62, ack(id, reason)),
            Self::PubComp { id, reason } => (0x70, ack(id, reason)),
            Self::Subscribe { id, subscription_id, filters } => {
                let property = subscription_id.map_or(vec![], |subscription_id| {
                    [&[11], &integer(subscription_id as usize)[..]].concat()
                });
                let mut body = [&id.to_be_bytes()[..], &block(v5, &property)].concat();
                for filter in filters {
                    body.extend(field(filter.filter.as_bytes()));
                    let v5_options = u8::from(filter.no_local) << 2
                        | u8::from(filter.retain_as_published) << 3
                        | filter.retain_handling << 4;
                    body.push(filter.qos | if v5 { v5_options } else { 0 });
                }
                (0x82, body)
            }
            Self::SubAck { id, reasons } => {
                (0x90, [&id.to_be_bytes()[..], &block(v5, &[]), reasons].concat())
            }
            Self::Unsubscribe { id, filters } => {
                let filters = filters.iter().flat_map(|filter| field(filter.as_bytes()));
                let head = [&id.to_be_bytes()[..], &block(v5, &[])].concat();
                (0xA2, head.into_iter().chain(filters).collect())
            }
            Self::UnsubAck { id } => (0xB0, [&id.to_be_bytes()[..], &block(v5, &[])].concat()),
            Self::PingReq => (0xC0, vec![]),
            Self::PingResp => (0xD0, vec![]),
            Self::Disconnect { reason, expiry_s } if v5 => {
                (0xE0, [&[*reason][..], &block(true, &number(17, *expiry_s))].concat())
            }
            Self::Disconnect { .. } => (0xE0, vec![]),
        };
        [&[first], &integer(body.len())[..], &body].concat()
    }

    /// Takes the first whole packet off the front of `bytes`.
    pub fn take(bytes: &mut Vec<u8>, v5: bool) -> Option<Self> {
        let mut reader = Reader(bytes);
        let first = reader.u8()?;
        let len = reader.integer()?;
        let body = reader.take(len)?.to_vec();
        let used = bytes.len() - reader.0.len();
        let packet = Self::decode(first, &body, v5);
        let packet = packet.unwrap_or_else(|| panic!("not a packet: {:02x?}", &bytes[..used]));
        bytes.drain(..used);
        Some(packet)
    }

    fn decode(first: u8, body: &[u8], v5: bool) -> Option<Self> {
        let mut body = Reader(body);
        let ack = |body: &mut Reader<'_>| Some((body.u16()?, body.u8().unwrap_or(0)));
        Some(match first >> 4 {
            1 => Self::Connect(Connect::decode(&mut body)?),
            2 => Self::ConnAck { session_present: body.u8()? == 1, reason: body.u8()? },
            3 => Self::Publish(Publish::decode(first, &mut body, v5)?),
            4 => ack(&mut body).map(|(id, reason)| Self::PubAck { id, reason })?,
            5 => ack(&mut body).map(|(id, reason)| Self::PubRec { id, reason })?,
            6 => ack(&mut body).map(|(id, reason)| Self::PubRel { id, reason })?,
            7 => ack(&mut body).map(|(id, reason)| Self::PubComp { id, reason })?,
            8 => {
                let id = body.u16()?;
                let subscription_id = body.properties(v5)?.subscription_ids.first().copied();
                let mut filters = vec![];
                while !body.0.is_empty() {
                    let filter = body.string()?;
                    let options = body.u8()?;
                    filters.push(Filter {
                        filter,
                        qos: options & 3,
                        no_local: options & 4 != 0,
                        retain_as_published: options & 8 != 0,
                        retain_handling: options >> 4 & 3,
                    });
                }
                Self::Subscribe { id, subscription_id, filters }
            }
            9 => {
                let id = body.u16()?;
                body.properties(v5)?;
                Self::SubAck { id, reasons: body.0.to_vec() }
            }
            10 => {
                let id = body.u16()?;
                body.properties(v5)?;
                let mut filters = vec![];
                while !body.0.is_empty() {
                    filters.push(body.string()?);
                }
                Self::Unsubscribe { id, filters }
            }
            11 => Self::UnsubAck { id: body.u16()? },
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => {
                let reason = body.u8().unwrap_or(0);
                let expiry_s = body.properties(v5).and_then(|properties| properties.expiry_s);
                Self::Disconnect { reason, expiry_s }
            }
            _ => return None,
        })
    }
}

impl Connect {
    fn encode(&self, v5: bool) -> Vec<u8> {
        let mut flags = u8::from(self.clean_start) << 1;
        let mut payload = field(self.client_id.as_bytes());
        if let Some(will) = &self.will {
            flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
            let delay = Some(will.delay_s).filter(|&s| s > 0);
            let properties = [number(24, delay), number(2, will.expiry_s)].concat();
            payload.extend(block(v5, &properties));
            payload.extend(field(will.topic.as_bytes()));
            payload.extend(field(&will.payload));
        }
        let maximum = self
            .receive_maximum
            .map_or(vec![], |maximum| [&[33][..], &maximum.to_be_bytes()].concat());
        let expiry = Some(self.expiry_s).filter(|&s| s > 0);
        let properties = [number(17, expiry), maximum].concat();
        [
            &field(b"MQTT")[..],
            &[if v5 { 5 } else { 4 }, flags],
            &self.keep_alive_s.to_be_bytes(),
            &block(v5, &properties),
            &payload,
        ]
        .concat()
    }

    fn decode(body: &mut Reader<'_>) -> Option<Self> {
        body.string()?;
        let v5 = body.u8()? == 5;
        let flags = body.u8()?;
        let clean_start = flags & 2 != 0;
        let keep_alive_s = body.u16()?;
        let properties = body.properties(v5)?;
        let expiry_s = match (v5, clean_start) {
            (true, _) => properties.expiry_s.unwrap_or(0),
            (false, true) => 0,
            (false, false) => u32::MAX,
        };
        let client_id = body.string()?;
        let will = if flags & 4 == 0 {
            None
        } else {
            let properties = body.properties(v5)?;
            let topic = body.string()?;
            let len = usize::from(body.u16()?);
            Some(Will {
                topic,
                payload: body.take(len)?.to_vec(),
                qos: flags >> 3 & 3,
                retain: flags & 32 != 0,
                delay_s: properties.will_delay_s.unwrap_or(0),
                expiry_s: properties.message_expiry_s,
            })
        };
        let receive_maximum = properties.receive_maximum;
        Some(Self { client_id, clean_start, keep_alive_s, expiry_s, receive_maximum, will })
    }
}

impl Publish {
    fn encode(&self, v5: bool) -> Vec<u8> {
        let id = if self.qos > 0 { self.id.to_be_bytes().to_vec() } else { vec![] };
        let mut properties = number(2, self.expiry_s);
        for &subscription_id in &self.subscription_ids {
            properties.push(11);
            properties.extend(integer(subscription_id as usize));
        }
        for (name, value) in [
            ("whimbrel-delivery-count", self.count.map(|count| count.to_string())),
            ("whimbrel-dead-letter-reason", self.reason.clone()),
            (PRIORITY, self.priority.map(|priority| priority.to_string())),
        ] {
            if let Some(value) = value {
                properties.push(38);
                properties.extend([field(name.as_bytes()), field(value.as_bytes())].concat());
            }
        }
        let properties = block(v5, &properties);
        [&field(self.topic.as_bytes())[..], &id, &properties, &self.payload].concat()
    }

    fn decode(first: u8, body: &mut Reader<'_>, v5: bool) -> Option<Self> {
        let qos = first >> 1 & 3;
        let topic = body.string()?;
        let id = if qos > 0 { body.u16()? } else { 0 };
        let properties = body.properties(v5)?;
        let mut subscription_ids = properties.subscription_ids;
        subscription_ids.sort_unstable();
        Some(Self {
            dup: first & 8 != 0,
            qos,
            retain: first & 1 != 0,
            topic,
            id,
            expiry_s: properties.message_expiry_s,
            subscription_ids,
            count: properties.count,
            reason: properties.reason,
            priority: properties.priority,
            payload: body.0.to_vec(),
        })
    }
}

/// What the simulation knows of properties.
#[derive(Default)]
struct Properties {
    expiry_s: Option<u32>,
    message_expiry_s: Option<u32>,
    will_delay_s: Option<u32>,
    receive_maximum: Option<u16>,
    subscription_ids: Vec<u32>,
    count: Option<u32>,
    reason: Option<String>,
    priority: Option<u8>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn integer(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.u8()?;
            value |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                return Some(value);
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        let len = usize::from(self.u16()?);
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn properties(&mut self, v5: bool) -> Option<Properties> {
        let mut found = Properties::default();
        if !v5 || self.0.is_empty() {
            return Some(found);
        }
        let len = self.integer()?;
        let mut block = Self(self.take(len)?);
        while let Some(id) = block.u8() {
            match id {
                2 => found.message_expiry_s = Some(block.u32()?),
                11 => found.subscription_ids.push(block.integer()? as u32),
                17 => found.expiry_s = Some(block.u32()?),
                18 => drop(block.string()?),
                24 => found.will_delay_s = Some(block.u32()?),
                33 => found.receive_maximum = Some(block.u16()?),
                34 => drop(block.u16()?),
                38 => {
                    let (name, value) = (block.string()?, block.string()?);
                    match &*name {
                        "whimbrel-delivery-count" => found.count = value.parse().ok(),
                        "whimbrel-dead-letter-reason" => found.reason = Some(value),
                        PRIORITY => found.priority = value.parse().ok(),
                        _ => {}
                    }
                }
                39 => drop(block.u32()?),
                _ => return None,
            }
        }
        Some(found)
    }
}
