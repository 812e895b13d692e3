//! Values as operators write them: sizes and times with units.

use std::time::Duration;

use crate::access::acl::pattern::Pattern;
use crate::net::proxy::Network;

/// What a setting's value must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An integer within bounds.
    Int {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// Bytes: an integer, or a text such as "10 MiB".
    Size {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// A time: an integer in seconds, or a text such as "500ms", "30s", "5m", "1h", "7d".
    Time,
    /// A time that is not nothing.
    Span,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A text.
    Text,
    /// A path; relative to the directory of the file it stands in.
    Path,
    /// A path, or several.
    Paths,
    /// Addresses and networks.
    Networks,
    /// Texts; one may stand without a list.
    Texts,
    /// Some of these words; one may stand without a list.
    Words(&'static [&'static str]),
    /// A Topic Filter of a rule.
    Pattern,
    /// A text of which not every one will do.
    Like {
        /// Which ones.
        what: &'static str,
        /// Whether one does.
        fits: fn(&str) -> bool,
    },
}

impl Kind {
    /// For messages and the reference.
    pub fn describe(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int { min, max: u64::MAX } => format!("an integer of {min} or more"),
            Self::Int { min, max } => format!("an integer from {min} to {max}"),
            Self::Size { min, max } => {
                format!("a size from {min} to {max} bytes, such as 65536 or \"64 KiB\"")
            }
            Self::Time => "a time, such as 30 (seconds), \"500ms\", \"5m\", \"7d\"".into(),
            Self::Span => "a time above 0, such as 30 (seconds), \"500ms\", \"5m\", \"7d\"".into(),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(" or ")
            }
            Self::Words(words) => {
                format!("{}, or a list of them", Self::Choice(words).describe())
            }
            Self::Texts => "a text or a list of texts".into(),
            Self::Pattern => "a Topic Filter, of which a level may be %u or %c".into(),
            Self::Text => "a text".into(),
            Self::Like { what, .. } => what.into(),
            Self::Path => "a path".into(),
            Self::Paths => "a path, or a list of paths such as [\"a.pem\", \"b.pem\"]".into(),
            Self::Networks => {
                "a list of addresses and networks, such as [\"192.0.2.7\", \"10.0.0.0/8\"]".into()
            }
        }
    }
}

/// A value that fits its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`] and [`Kind::Size`].
    Int(u64),
    /// Of [`Kind::Time`] and [`Kind::Span`].
    Time(Duration),
    /// Of [`Kind::Choice`], [`Kind::Text`], [`Kind::Path`], [`Kind::Paths`] and [`Kind::Like`].
    Text(String),
    /// Of [`Kind::Networks`].
    Networks(Vec<Network>),
    /// Of [`Kind::Paths`], [`Kind::Texts`] and [`Kind::Words`].
    Texts(Vec<String>),
    /// Of [`Kind::Pattern`].
    Pattern(Pattern),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Time(value) => write!(f, "{value:?}"),
            Self::Text(value) => f.write_str(value),
            Self::Networks(value) => write!(f, "{value:?}"),
            Self::Texts(value) => write!(f, "{value:?}"),
            Self::Pattern(value) => write!(f, "{value:?}"),
        }
    }
}

impl Value {
    /// A truth; false for other kinds, which the table does not ask for it.
    pub fn bool(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// A number; 0 for other kinds.
    pub fn int(&self) -> u64 {
        if let Self::Int(value) = self { *value } else { 0 }
    }

    /// A number that fits the machine.
    pub fn usize(&self) -> usize {
        usize::try_from(self.int()).unwrap_or(usize::MAX)
    }

    /// A number of 32 bits; the table bounds it.
    pub fn u32(&self) -> u32 {
        u32::try_from(self.int()).unwrap_or(u32::MAX)
    }

    /// A number of 16 bits; the table bounds it.
    pub fn u16(&self) -> u16 {
        u16::try_from(self.int()).unwrap_or(u16::MAX)
    }

    /// A time.
    pub fn time(&self) -> Duration {
        if let Self::Time(value) = self { *value } else { Duration::ZERO }
    }

    /// A text.
    pub fn text(&self) -> &str {
        if let Self::Text(value) = self { value } else { "" }
    }

    /// Texts; one is a list too.
    pub fn texts(&self) -> &[String] {
        match self {
            Self::Texts(texts) => texts,
            Self::Text(text) => std::slice::from_ref(text),
            _ => &[],
        }
    }

    /// A Topic Filter of a rule.
    pub fn pattern(&self) -> Option<Pattern> {
        if let Self::Pattern(value) = self { Some(value.clone()) } else { None }
    }

    /// Networks.
    pub fn networks(&self) -> &[Network] {
        if let Self::Networks(value) = self { value } else { &[] }
    }
}

/// What stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A text.
    Text(&'a str),
    /// A list of texts.
    Texts(Vec<&'a str>),
    /// Something that no setting is.
    Other,
}

/// The value that a setting gets; `None` when what is written does not fit.
pub fn fit(kind: Kind, written: &Written<'_>) -> Option<Value> {
    let within =
        |value: u64, min: u64, max: u64| (min..=max).contains(&value).then_some(Value::Int(value));
    match (kind, written) {
        (Kind::Bool, Written::Bool(value)) => Some(Value::Bool(*value)),
        (Kind::Int { min, max } | Kind::Size { min, max }, Written::Int(value)) => {
            within(u64::try_from(*value).ok()?, min, max)
        }
        (Kind::Size { min, max }, Written::Text(text)) => within(size(text)?, min, max),
        (Kind::Time, Written::Int(seconds)) => {
            Some(Value::Time(Duration::from_secs(u64::try_from(*seconds).ok()?)))
        }
        (Kind::Time, Written::Text(text)) => time(text).map(Value::Time),
        (Kind::Span, written) => {
            fit(Kind::Time, written).filter(|value| *value != Value::Time(Duration::ZERO))
        }
        // A choice of words may include the truths.
        (Kind::Choice(words), Written::Bool(value)) => {
            let word = if *value { "true" } else { "false" };
            words.contains(&word).then(|| Value::Text(word.into()))
        }
        (Kind::Choice(words), Written::Text(word)) => {
            words.contains(word).then(|| Value::Text((*word).into()))
        }
        (Kind::Paths, Written::Texts(texts))
            if !texts.is_empty() && texts.iter().all(|text| !text.is_empty()) =>
        {
            Some(Value::Texts(texts.iter().map(|text| (*text).into()).collect()))
        }
        (Kind::Text | Kind::Path | Kind::Paths, Written::Text(text)) if !text.is_empty() => {
            Some(Value::Text((*text).into()))
        }
        (Kind::Like { fits, .. }, Written::Text(text)) if fits(text) => {
            Some(Value::Text((*text).into()))
        }
        (Kind::Networks, Written::Texts(texts)) => {
            let networks: Result<Vec<Network>, ()> =
                texts.iter().map(|text| text.parse()).collect();
            networks.ok().map(Value::Networks)
        }
        (Kind::Texts | Kind::Words(_), Written::Text(text)) => texts(kind, &[text]),
        (Kind::Texts | Kind::Words(_), Written::Texts(written)) => texts(kind, written),
        (Kind::Pattern, Written::Text(text)) => {
            let pattern = Pattern::new(text).ok().filter(|pattern| !pattern.has_stray());
            pattern.map(Value::Pattern)
        }
        _ => None,
    }
}

fn texts(kind: Kind, written: &[&str]) -> Option<Value> {
    let is_good = |text: &&str| match kind {
        Kind::Words(words) => words.contains(text),
        _ => !text.is_empty(),
    };
    let are_good = !written.is_empty() && written.iter().all(is_good);
    are_good.then(|| Value::Texts(written.iter().map(|&text| text.into()).collect()))
}

/// A number and its unit.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim()))
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn time(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "us" => return Some(Duration::from_micros(number)),
        "ms" => return Some(Duration::from_millis(number)),
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        let any = Kind::Size { min: 0, max: u64::MAX };
        assert_eq!(fit(any, &Written::Text("64 MiB")), Some(Value::Int(64 << 20)));
        assert_eq!(fit(any, &Written::Text("2kB")), Some(Value::Int(2000)));
        assert_eq!(fit(any, &Written::Text("2 parsecs")), None);
        assert_eq!(fit(Kind::Time, &Written::Int(3)), Some(Value::Time(Duration::from_secs(3))));
        let week = Value::Time(Duration::from_secs(604_800));
        assert_eq!(fit(Kind::Time, &Written::Text("7d")), Some(week));
    }

    #[test]
    fn what_is_out_of_bounds_does_not_fit() {
        let port = Kind::Int { min: 1, max: 65_535 };
        assert_eq!(fit(port, &Written::Int(0)), None);
        assert_eq!(fit(port, &Written::Int(-1)), None);
        assert_eq!(fit(port, &Written::Int(70_000)), None);
        assert_eq!(fit(port, &Written::Text("80")), None);
    }

    #[test]
    fn a_choice_may_be_a_truth_or_a_word() {
        let kind = Kind::Choice(&["true", "false", "loopback"]);
        assert_eq!(fit(kind, &Written::Bool(true)), Some(Value::Text("true".into())));
        assert_eq!(fit(kind, &Written::Text("loopback")), Some(Value::Text("loopback".into())));
        assert_eq!(fit(kind, &Written::Text("perhaps")), None);
    }

    #[test]
    fn a_list_of_networks_has_no_member_that_is_none() {
        let fits = |texts: &[&str]| fit(Kind::Networks, &Written::Texts(texts.to_vec()));
        let two = fits(&["192.0.2.7", "10.0.0.0/8"]).expect("it fits");
        assert_eq!(two.networks().len(), 2);
        assert_eq!(fits(&["192.0.2.7", "localhost"]), None);
        assert_eq!(fit(Kind::Networks, &Written::Text("192.0.2.7")), None);
    }
}
