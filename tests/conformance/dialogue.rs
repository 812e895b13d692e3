//! The dialogue language: text to steps. `conformance/dialogues/README.md` describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::packet::{Kind, PACKETS, Value, Version, kind_of, property_named};

/// What stands before the steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The sentence that says what is shown.
    pub sentence: String,
    pub versions: Vec<Version>,
    pub shows: Vec<String>,
    /// Lines of TOML.
    pub settings: Vec<String>,
    /// Brokers that are known to fail, and why the standard is against them.
    pub differs: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
    /// The items of the `for` blocks it stands in.
    pub with: String,
    /// How long it may take, if not as long as usual.
    pub within: Option<Duration>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Open(String, Version),
    Send(String, Sent),
    Close(String),
    Wait(Duration),
    Expect(String, Expected),
    /// In any order on each connection.
    AnyOrder(Vec<Step>),
    /// By exactly one of two connections.
    OneOf(String, String, Template),
}

#[derive(Clone, Debug)]
pub enum Sent {
    Packet(Template),
    Bytes { framed: bool, pieces: Vec<Piece> },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Two bytes.
    Variable(String),
}

#[derive(Clone, Debug)]
pub enum Expected {
    Packet { template: Template, optional: bool },
    Bytes(Vec<Piece>),
    Closed,
    Nothing,
}

/// A packet with holes.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub name: &'static str,
    pub fields: Vec<(String, Term)>,
    /// No properties but those that are written.
    pub only: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    Any,
    /// There or not.
    Maybe,
    Absent,
    OneOf(Vec<Choice>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub negated: bool,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Value(Value),
    Variable(String),
    /// A Reason Code below 0x80.
    Ok,
    /// A Reason Code of 0x80 or more.
    Error,
}

/// A line and what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    pub line: usize,
    pub what: String,
}

/// Reads the header alone.
pub fn header(text: &str) -> Result<Header, Mistake> {
    let mut header = Header::default();
    for (number, line) in text.lines().enumerate() {
        let mistake = |what: String| Mistake { line: number + 1, what };
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "#" if header.versions.is_empty() => {
                let gap = if header.sentence.is_empty() { "" } else { " " };
                header.sentence = format!("{}{gap}{}", header.sentence, rest.trim());
            }
            "version" => {
                for version in rest.split_whitespace() {
                    header.versions.push(Version::parse(version).map_err(mistake)?);
                }
            }
            "shows" => {
                for id in rest.split_whitespace() {
                    check_shown(id).map_err(mistake)?;
                    header.shows.push(id.into());
                }
            }
            "settings" => header.settings.push(rest.into()),
            "differs" => {
                let (broker, why) = rest.split_once(' ').unwrap_or((rest, ""));
                if why.is_empty() {
                    return Err(mistake("differs needs a broker and a sentence".into()));
                }
                header.differs.push((broker.into(), why.into()));
            }
            _ => {}
        }
    }
    let missing = [
        (header.sentence.is_empty(), "a first line `# sentence`"),
        (header.versions.is_empty(), "a line `version`"),
        (header.shows.is_empty(), "a line `shows`"),
    ];
    match missing.iter().find(|(is_missing, _)| *is_missing) {
        Some((_, what)) => Err(Mistake { line: 1, what: format!("there is no {what}") }),
        None => Ok(header),
    }
}

/// `5:MQTT-3.1.0-1`, or a section: `3.1:3.9`.
fn check_shown(id: &str) -> Result<(), String> {
    let (version, id) = id.split_once(':').ok_or(format!("{id} has no version before it"))?;
    Version::parse(version)?;
    let section = id.strip_prefix("MQTT-").and_then(|id| id.rsplit_once('-'));
    let (section, number) = section.unwrap_or((id, "1"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if section.split('.').all(is_number) && is_number(number) {
        Ok(())
    } else {
        Err(format!("{id} is neither a statement nor a section"))
    }
}

/// A line of a file; written out, it may stand there several times.
#[derive(Clone)]
struct Line {
    number: usize,
    text: String,
    /// The items of the `for` blocks it stands in.
    with: String,
}

/// Reads the steps for one version; `unique` stands for `{t}`.
pub fn steps(text: &str, version: Version, unique: &str) -> Result<Vec<Step>, Mistake> {
    let header = header(text)?;
    let line = |(number, line): (usize, &str)| Line {
        number: number + 1,
        text: line.trim().replace("{t}", unique),
        with: String::new(),
    };
    let lines = text.lines().enumerate().map(line).filter(|line| !is_header(&line.text));
    let lines: Vec<Line> = lines.collect();
    let has_5 = header.versions.contains(&Version::V5);
    let mut parser = Parser { version, has_5, unique, names: BTreeMap::new() };
    let steps = parser.block(&unrolled(&lines)?)?;
    if let Some((name, (line, _))) = parser.names.iter().find(|(_, (_, uses))| *uses == 1) {
        let what = format!("<{name}> is used once only; * stands for any value");
        return Err(Mistake { line: *line, what });
    }
    if !steps.iter().any(|step| !matches!(step.action, Action::Wait(_) | Action::Send(..))) {
        return Err(Mistake { line: 1, what: format!("nothing is expected with {version}") });
    }
    Ok(steps)
}

fn is_header(line: &str) -> bool {
    let word = line.split(' ').next().unwrap_or_default();
    line.is_empty()
        || line.starts_with('#')
        || ["version", "shows", "settings", "differs"].contains(&word)
}

/// Writes `for` blocks out.
fn unrolled(lines: &[Line]) -> Result<Vec<Line>, Mistake> {
    let mut out = vec![];
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        let Some(rest) = line.text.strip_prefix("for ") else {
            out.push(line.clone());
            continue;
        };
        let mistake = |what: &str| Mistake { line: line.number, what: what.into() };
        let (name, items) = rest.split_once(" in ").ok_or(mistake("for NAME in ITEMS"))?;
        let len = block_len(&lines[at..]).ok_or(mistake("this block has no `end`"))?;
        let body = unrolled(&lines[at..at + len])?;
        at += len + 1;
        for item in items_of(items).map_err(|what| mistake(&what))? {
            let hole = format!("{{{name}}}");
            out.extend(body.iter().map(|line| Line {
                number: line.number,
                text: line.text.replace(&hole, &item),
                with: format!(" {name}={item}{}", line.with.replace(&hole, &item)),
            }));
        }
    }
    Ok(out)
}

/// Lines before the `end` of a block that began before the first.
fn block_len(lines: &[Line]) -> Option<usize> {
    let mut depth = 1;
    lines.iter().position(|Line { text, .. }| {
        if text.starts_with("for ") || text == "any order" {
            depth += 1;
        }
        if text == "end" {
            depth -= 1;
        }
        depth == 0
    })
}

/// Words, quoted texts (where `\"` is a quote), and ranges such as `1..23`.
fn items_of(text: &str) -> Result<Vec<String>, String> {
    let mut items = vec![];
    for token in tokens(text)? {
        let range = token.split_once("..").map(|(a, b)| (a.parse::<u32>(), b.parse::<u32>()));
        if let Some((Ok(first), Ok(last))) = range {
            items.extend((first..=last).map(|n| n.to_string()));
        } else {
            let inner = token.strip_prefix('"').and_then(|token| token.strip_suffix('"'));
            items.push(inner.map_or(token.clone(), |inner| inner.replace("\\\"", "\"")));
        }
    }
    if items.is_empty() { Err("for NAME in ITEMS".into()) } else { Ok(items) }
}

/// Splits at spaces outside of quotes.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = vec![];
    let mut token = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if c == ' ' && !quoted {
            tokens.extend(Some(std::mem::take(&mut token)).filter(|token| !token.is_empty()));
            continue;
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
        token.push(c);
    }
    tokens.extend(Some(token).filter(|token| !token.is_empty()));
    if quoted { Err("a quote is not closed".into()) } else { Ok(tokens) }
}

/// An action and how long it may take, if not as long as usual.
type Timed = (Option<Duration>, Action);

struct Parser<'a> {
    version: Version,
    unique: &'a str,
    /// Whether the dialogue is played with MQTT 5.0 too.
    has_5: bool,
    /// Variables: first line and number of uses.
    names: BTreeMap<String, (usize, usize)>,
}

impl Parser<'_> {
    fn block(&mut self, lines: &[Line]) -> Result<Vec<Step>, Mistake> {
        let mut steps = vec![];
        let mut at = 0;
        while let Some(Line { number, text, with }) = lines.get(at) {
            at += 1;
            let mistake = |what: String| Mistake { line: *number, what };
            if text == "any order" {
                let missing = || mistake("this block has no `end`".into());
                let len = block_len(&lines[at..]).ok_or_else(missing)?;
                let inner = self.block(&lines[at..at + len])?;
                at += len + 1;
                let allowed =
                    |step: &Step| matches!(step.action, Action::Expect(_, Expected::Packet { .. }));
                if let Some(step) = inner.iter().find(|step| !allowed(step)) {
                    let what = "only packets that come may stand in `any order`".into();
                    return Err(Mistake { line: step.line, what });
                }
                let (text, with) = (text.clone(), with.clone());
                let action = Action::AnyOrder(inner);
                steps.push(Step { line: *number, text, with, within: None, action });
                continue;
            }
            if let Some((within, action)) = self.step(*number, text).map_err(mistake)? {
                let (text, with) = (text.clone(), with.clone());
                steps.push(Step { line: *number, text, with, within, action });
            }
        }
        Ok(steps)
    }

    /// A line that is played with this version.
    fn step(&mut self, line: usize, text: &str) -> Result<Option<Timed>, String> {
        let mut rest = text;
        if let Some(marked) = text.strip_prefix('@') {
            let (versions, step) = marked.split_once(' ').ok_or("@VERSION STEP")?;
            let versions: Result<Vec<_>, _> = versions.split(',').map(Version::parse).collect();
            if !versions?.contains(&self.version) {
                return Ok(None);
            }
            rest = step.trim();
        }
        let mut within = None;
        if let Some(limited) = rest.strip_prefix("within ") {
            let (time, step) = limited.split_once(' ').ok_or("within TIME STEP")?;
            within = Some(duration(time)?);
            rest = step.trim();
        }
        let action = match rest.strip_prefix("wait ") {
            Some(time) => Action::Wait(duration(time)?),
            None => self.exchange(line, rest)?,
        };
        Ok(Some((within, action)))
    }

    fn exchange(&mut self, line: usize, text: &str) -> Result<Action, String> {
        let unknown = || format!("`{text}` is no step");
        let (who, rest) = text.split_once(' ').ok_or_else(unknown)?;
        let words = tokens(rest)?;
        let (first, words) = words.split_first().ok_or_else(unknown)?;
        if let Some(who) = who.strip_suffix('>') {
            let who = connection(who)?;
            return match (first.as_str(), words) {
                ("open", []) => Ok(Action::Open(who, self.version)),
                ("open", [version]) => Ok(Action::Open(who, Version::parse(version)?)),
                ("close", []) => Ok(Action::Close(who)),
                ("hex" | "packet", words) => {
                    let pieces = self.pieces(line, words)?;
                    Ok(Action::Send(who, Sent::Bytes { framed: first == "packet", pieces }))
                }
                (name, words) => {
                    let mut template = self.template(line, name, words)?;
                    check_sent(&template)?;
                    let has_client = template.fields.iter().any(|(key, _)| key == "client");
                    if template.name == "CONNECT" && !has_client {
                        let client = Value::Bytes(format!("{}{who}", self.unique).into_bytes());
                        template.fields.push(("client".into(), value_of(client)));
                    }
                    Ok(Action::Send(who, Sent::Packet(template)))
                }
            };
        }
        let who = who.strip_suffix('<').ok_or_else(unknown)?;
        if let Some((one, two)) = who.split_once('|') {
            let template = self.template(line, first, words)?;
            return Ok(Action::OneOf(connection(one)?, connection(two)?, template));
        }
        let expected = match (first.as_str(), words) {
            ("closed", []) => Expected::Closed,
            ("nothing", []) => Expected::Nothing,
            ("hex", words) => Expected::Bytes(self.pieces(line, words)?),
            (name, words) => {
                let required = name.strip_suffix('?');
                let template = self.template(line, required.unwrap_or(name), words)?;
                Expected::Packet { template, optional: required.is_some() }
            }
        };
        Ok(Action::Expect(connection(who)?, expected))
    }

    fn template(&mut self, line: usize, name: &str, words: &[String]) -> Result<Template, String> {
        let (name, ..) = PACKETS
            .iter()
            .find(|row| row.0 == name)
            .ok_or(format!("{name} is neither a packet nor a command"))?;
        let mut template = Template { name, fields: vec![], only: false };
        for word in words {
            if word == "only" {
                template.only = true;
                continue;
            }
            let (key, term) = match (word.split_once('='), word.strip_prefix('!')) {
                (Some((key, value)), _) => (key, Some(value)),
                (None, Some(key)) => (key, None),
                _ => return Err(format!("`{word}` is not KEY=VALUE")),
            };
            let kind = kind_of(name, key).ok_or(format!("{name} has no {key}"))?;
            if is_from_5(key) && !self.has_5 {
                return Err(format!("MQTT {} has no {key}", self.version));
            }
            let term = term.map_or(Ok(Term::Absent), |value| self.term(line, key, kind, value))?;
            template.fields.push((key.into(), term));
        }
        Ok(template)
    }

    fn term(&mut self, line: usize, key: &str, kind: Kind, text: &str) -> Result<Term, String> {
        match text {
            "*" => return Ok(Term::Any),
            "?" => return Ok(Term::Maybe),
            _ => {}
        }
        let mut choices = vec![];
        for choice in alternatives(text) {
            let stripped = choice.strip_prefix('!');
            let what = self.what(line, key, kind, stripped.unwrap_or(&choice))?;
            choices.push(Choice { negated: stripped.is_some(), what });
        }
        Ok(Term::OneOf(choices))
    }

    fn what(&mut self, line: usize, key: &str, kind: Kind, text: &str) -> Result<What, String> {
        if let Some(name) = text.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
            return Ok(What::Variable(self.variable(line, name)?));
        }
        match (key, text) {
            ("reason", "ok") => return Ok(What::Ok),
            ("reason", "error") => return Ok(What::Error),
            _ => {}
        }
        let Some(max) = kind.max() else {
            return Ok(What::Value(Value::Bytes(bytes_of(text)?)));
        };
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        let number = number.filter(|&number| number <= max);
        number
            .map(|number| What::Value(Value::Number(number)))
            .ok_or(format!("{key} is a number from 0 to {max}, not `{text}`"))
    }

    fn variable(&mut self, line: usize, name: &str) -> Result<String, String> {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_name {
            return Err(format!("<{name}> is no name"));
        }
        self.names.entry(name.into()).or_insert((line, 0)).1 += 1;
        Ok(name.into())
    }

    /// Hexadecimal digits, `"text"`, `s"text"` with its length, `<variable>`.
    fn pieces(&mut self, line: usize, words: &[String]) -> Result<Vec<Piece>, String> {
        let mut pieces = vec![];
        for word in words {
            if let Some(name) = word.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
                pieces.push(Piece::Variable(self.variable(line, name)?));
            } else if word.starts_with('"') {
                pieces.push(Piece::Bytes(bytes_of(word)?));
            } else if let Some(quoted) = word.strip_prefix('s') {
                let mut bytes = vec![];
                crate::encode::string(&bytes_of(quoted)?, &mut bytes);
                pieces.push(Piece::Bytes(bytes));
            } else {
                pieces.push(Piece::Bytes(hex(word)?));
            }
        }
        if pieces.is_empty() { Err("there are no bytes".into()) } else { Ok(pieces) }
    }
}

/// Properties, and what MQTT 5.0 added to subscriptions.
fn is_from_5(key: &str) -> bool {
    let property = key.strip_prefix("will.").unwrap_or(key);
    property_named(property).is_some()
        || ["no_local", "retain_as_published", "retain_handling"].contains(&key)
}

/// What is sent has one value for each key.
fn check_sent(template: &Template) -> Result<(), String> {
    for (key, term) in &template.fields {
        let is_plain = match term {
            Term::OneOf(choices) => {
                let sendable = |choice: &Choice| {
                    !choice.negated && matches!(choice.what, What::Value(_) | What::Variable(_))
                };
                choices.len() == 1 && choices.iter().all(sendable)
            }
            _ => false,
        };
        if !is_plain {
            return Err(format!("{key} of a packet that is sent needs one value"));
        }
    }
    let may_repeat = |key: &str| {
        let property = key.strip_prefix("will.").unwrap_or(key);
        template.name == "SUBSCRIBE" || key == "filter" || property_named(property).is_some()
    };
    let mut seen = BTreeSet::new();
    let twice =
        template.fields.iter().find(|(key, _)| !may_repeat(key) && !seen.insert(key.clone()));
    match (twice, template.only) {
        (Some((key, _)), _) => Err(format!("{key} stands twice")),
        (_, true) => Err("`only` is for packets that are expected".into()),
        _ => Ok(()),
    }
}

fn value_of(value: Value) -> Term {
    Term::OneOf(vec![Choice { negated: false, what: What::Value(value) }])
}

fn connection(name: &str) -> Result<String, String> {
    let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.is_empty() || !is_name {
        return Err(format!("`{name}` is no name of a connection"));
    }
    Ok(name.into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or(format!("`{text}` is no time such as 1.5s"))
}

/// Splits at `|` outside of quotes.
fn alternatives(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
        match parts.last_mut() {
            Some(part) if c != '|' || quoted => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |c: char| c.to_digit(16).map(|digit| digit as u8);
    let digits: Option<Vec<u8>> = text.chars().map(digit).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err(format!("`{text}` is not hexadecimal")),
    }
}

/// A word as it stands, `fill:1000` as so many `x`, `fill:1000:text` as a text made that long with
/// them, or a quoted text with escapes.
fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    if let Some(rest) = text.strip_prefix("fill:") {
        let (len, begin) = rest.split_once(':').unwrap_or((rest, ""));
        let len = len.parse().map_err(|_| format!("`{text}` is no length"))?;
        let mut bytes = begin.as_bytes().to_vec();
        bytes.resize(len, b'x');
        return Ok(bytes);
    }
    let Some(rest) = text.strip_prefix('"') else {
        let is_odd = text.contains(['"', '|', '<', '>', '\\']);
        return if is_odd { Err(format!("`{text}` needs quotes")) } else { Ok(text.into()) };
    };
    let inner = rest.strip_suffix('"').ok_or(format!("`{text}` goes on after its quote"))?;
    let mut bytes = vec![];
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let escape = if c == '\\' { chars.next() } else { None };
        match (c, escape) {
            ('\\', Some('n')) => bytes.push(b'\n'),
            ('\\', Some('x')) => {
                let digits: String = chars.by_ref().take(2).collect();
                bytes.extend(hex(&digits)?);
            }
            ('\\', Some(c @ ('\\' | '"'))) => bytes.push(c as u8),
            ('\\' | '"', _) => return Err(format!("`{text}` has a bad escape or quote")),
            (c, _) => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(bytes)
}
