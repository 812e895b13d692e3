//! Plays the steps of a dialogue against a broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connection::{Connection, Event, hexadecimal};
use crate::dialogue::{Action, Expected, Piece, Sent, Step, Template};
use crate::encode::{encode, framed};
use crate::expect::{Variables, compare, filled};
use crate::packet::{Value, Version};

/// How long an expected event may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is shown of what went before a failure.
const TRACE_LINES: usize = 16;

/// The first difference between dialogue and broker.
#[derive(Clone, Debug)]
pub struct Failure {
    /// 0 for the end of the dialogue.
    pub line: usize,
    pub step: String,
    /// The items of the `for` blocks it stands in.
    pub with: String,
    pub what: String,
    /// What was sent and came before.
    pub trace: Vec<String>,
}

impl Failure {
    /// For people, with the file's name.
    pub fn explained(&self, file: &str, version: Version) -> String {
        let place = if self.line == 0 { String::new() } else { format!(":{}", self.line) };
        let Self { step, with, what, trace, .. } = self;
        let with = if with.is_empty() { String::new() } else { format!("    with   {with}\n") };
        let trace = trace.join("\n        ");
        format!(
            "{file}{place} (MQTT {version})\n    step    {step}\n{with}    {}\n    before  {trace}\n",
            what.replace('\n', "\n    ")
        )
    }
}

struct Play {
    address: SocketAddr,
    version: Version,
    connections: BTreeMap<String, Connection>,
    /// Names that stand for other connections.
    aliases: BTreeMap<String, String>,
    variables: Variables,
    trace: Vec<String>,
    patience: Duration,
}

/// Plays all steps; at the end nothing may be left on any connection.
pub fn play(address: SocketAddr, version: Version, steps: &[Step]) -> Result<(), Failure> {
    let mut play = Play {
        address,
        version,
        connections: BTreeMap::new(),
        aliases: BTreeMap::new(),
        variables: Variables::new(),
        trace: vec![],
        patience: PATIENCE,
    };
    for step in steps {
        play.patience = step.within.unwrap_or(PATIENCE);
        let done = play.step(step);
        done.map_err(|what| play.failure(step, what))?;
    }
    play.patience = PATIENCE;
    let end = Step {
        line: 0,
        text: "the end: nothing may be left".into(),
        with: String::new(),
        within: None,
        action: Action::Wait(Duration::ZERO),
    };
    let done = play.end();
    done.map_err(|what| play.failure(&end, what))
}

impl Play {
    fn failure(&self, step: &Step, what: String) -> Failure {
        let trace = self.trace[self.trace.len().saturating_sub(TRACE_LINES)..].to_vec();
        let Step { line, text, with, .. } = step.clone();
        Failure { line, step: text, with, what, trace }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Wait(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
            Action::Open(who, version) => {
                if self.connections.contains_key(&self.resolved(who)) {
                    return Err(format!("{who} is open already"));
                }
                self.open(who, *version)
            }
            Action::Send(who, sent) => self.send(who, sent),
            Action::Close(who) => self.close(who),
            Action::Expect(who, expected) => self.expect(who, expected),
            Action::AnyOrder(steps) => self.any_order(steps),
            Action::OneOf(one, two, template) => self.one_of(one, two, template),
        }
    }

    fn resolved(&self, who: &str) -> String {
        self.aliases.get(who).map_or(who, String::as_str).to_owned()
    }

    fn open(&mut self, who: &str, version: Version) -> Result<(), String> {
        let connection = Connection::open(self.address, version)?;
        self.connections.insert(self.resolved(who), connection);
        Ok(())
    }

    fn connection(&mut self, who: &str) -> Result<&mut Connection, String> {
        let name = self.resolved(who);
        self.connections.get_mut(&name).ok_or(format!("{who} is not open"))
    }

    fn send(&mut self, who: &str, sent: &Sent) -> Result<(), String> {
        if !self.connections.contains_key(&self.resolved(who)) {
            self.open(who, self.version)?;
        }
        let version = self.connection(who)?.version;
        let (shown, bytes) = match sent {
            Sent::Packet(template) => {
                let packet = filled(template, &self.variables)?;
                if packet.name == "CONNECT" {
                    let maximum =
                        packet.find_number("maximum_packet_size").filter(|&size| size > 0);
                    self.connection(who)?.maximum_packet_size = maximum;
                    self.connection(who)?.books.connect(&packet);
                }
                let bytes = encode(&packet, version);
                (packet.to_string(), bytes)
            }
            Sent::Bytes { framed: is_framed, pieces } => {
                let bytes = self.bytes(pieces)?;
                let bytes = match bytes.split_first() {
                    Some((&first, body)) if *is_framed => framed(first, body),
                    _ => bytes,
                };
                (String::new(), bytes)
            }
        };
        self.trace.push(format!("{who}> {shown}  [{}]", hexadecimal(&bytes)));
        self.connection(who)?.send(&bytes);
        Ok(())
    }

    fn bytes(&self, pieces: &[Piece]) -> Result<Vec<u8>, String> {
        let mut out = vec![];
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => out.extend(bytes),
                Piece::Variable(name) => match self.variables.get(name) {
                    Some(Value::Number(number)) => out.extend((*number as u16).to_be_bytes()),
                    Some(Value::Bytes(bytes)) => out.extend(bytes),
                    None => return Err(format!("<{name}> has no value yet")),
                },
            }
        }
        Ok(out)
    }

    /// The client goes without a word; what the broker still sent is let go.
    fn close(&mut self, who: &str) -> Result<(), String> {
        self.trace.push(format!("{who}> close"));
        self.connection(who)?.shut();
        loop {
            match self.take(who)? {
                Event::Packet(..) => {}
                Event::Closed(_) => break,
                other => {
                    return Err(format!("expected  the end of the connection\ncame      {other}"));
                }
            }
        }
        self.forget(who);
        Ok(())
    }

    fn forget(&mut self, who: &str) {
        let name = self.resolved(who);
        self.connections.remove(&name);
    }

    fn take(&mut self, who: &str) -> Result<Event, String> {
        let deadline = Instant::now() + self.patience;
        let event = self.connection(who)?.take(deadline);
        self.trace.push(format!("{who}< {event}"));
        Ok(event)
    }

    fn expect(&mut self, who: &str, expected: &Expected) -> Result<(), String> {
        match expected {
            Expected::Packet { template, optional } => {
                if *optional && !self.is_next(who, template.name)? {
                    return Ok(());
                }
                let event = self.take(who)?;
                self.compare(who, template, &event)
            }
            Expected::Bytes(pieces) => {
                let expected = self.bytes(pieces)?;
                match self.take(who)? {
                    Event::Packet(_, bytes) if bytes == expected => Ok(()),
                    came => Err(format!("expected  {}\ncame      {came}", hexadecimal(&expected))),
                }
            }
            Expected::Closed => match self.take(who)? {
                Event::Closed(rest) if rest.is_empty() => {
                    self.forget(who);
                    Ok(())
                }
                came => Err(format!("expected  the end of the connection\ncame      {came}")),
            },
            Expected::Nothing => self.nothing(who),
        }
    }

    fn is_next(&mut self, who: &str, name: &str) -> Result<bool, String> {
        let deadline = Instant::now() + self.patience;
        let event = self.connection(who)?.peek(deadline);
        Ok(matches!(event, Event::Packet(packet, _) if packet.name == name))
    }

    /// Nothing comes before the answer to a PINGREQ.
    fn nothing(&mut self, who: &str) -> Result<(), String> {
        self.trace.push(format!("{who}> PINGREQ"));
        self.connection(who)?.send(&[0xC0, 0]);
        match self.take(who)? {
            Event::Packet(packet, _) if packet.name == "PINGRESP" => Ok(()),
            came => Err(format!("expected  nothing but a PINGRESP\ncame      {came}")),
        }
    }

    fn compare(&mut self, who: &str, template: &Template, event: &Event) -> Result<(), String> {
        let version = self.connection(who)?.version;
        let difference = match event {
            Event::Packet(packet, _) => {
                compare(template, packet, version, &mut self.variables).err()
            }
            _ => Some("no packet".into()),
        };
        match difference {
            None => Ok(()),
            Some(what) => {
                Err(format!("expected  {}\ncame      {event}\ndiffers   {what}", template.name))
            }
        }
    }

    /// Each packet that comes must be one of those that are left; those that need not come may
    /// stay away.
    fn any_order(&mut self, steps: &[Step]) -> Result<(), String> {
        let mut left: Vec<(&str, &Step, &Template, bool)> = steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::Expect(who, Expected::Packet { template, optional }) => {
                    Some((who.as_str(), step, template, *optional))
                }
                _ => None,
            })
            .collect();
        while let Some(&(who, ..)) = left.iter().find(|(.., optional)| !optional) {
            let event = self.take(who)?;
            let mut differences = vec![];
            let mut found = None;
            for (at, (_, step, template, _)) in
                left.iter().enumerate().filter(|(_, (other, ..))| *other == who)
            {
                match self.compare(who, template, &event) {
                    Ok(()) => {
                        found = Some(at);
                        break;
                    }
                    Err(what) => {
                        let last = what.lines().last().unwrap_or_default();
                        differences.push(format!("line {}: {}: {last}", step.line, step.text));
                    }
                }
            }
            match found {
                Some(at) => {
                    left.remove(at);
                }
                None => {
                    let differences = differences.join("\n          ");
                    return Err(format!(
                        "expected  one of\n          {differences}\ncame      {event}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The one that gets it is called `one` from now on, the other `other`.
    fn one_of(&mut self, first: &str, second: &str, template: &Template) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        let names = [self.resolved(first), self.resolved(second)];
        loop {
            for (at, name) in names.iter().enumerate() {
                let event = self.connection(name)?.peek(Instant::now() + Duration::from_millis(2));
                if matches!(event, Event::Silence(_)) {
                    continue;
                }
                let event = self.take(name)?;
                self.aliases.insert("one".into(), name.clone());
                self.aliases.insert("other".into(), names[1 - at].clone());
                return self.compare(name, template, &event);
            }
            if Instant::now() > deadline {
                return Err(format!("expected  {}\ncame      nothing in time", template.name));
            }
        }
    }

    fn end(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for name in &names {
            if self.connection(name)?.accepted {
                self.nothing(name)?;
                self.connection(name)?.send(&[0xE0, 0]);
            }
        }
        Ok(())
    }
}
