//! Whether what came is what was expected.

use std::collections::BTreeMap;

use crate::dialogue::{Choice, Template, Term, What};
use crate::packet::{Packet, Value, Version, default_of, has_reason_from_5, property_named};

/// Values that names were given.
pub type Variables = BTreeMap<String, Value>;

/// What differs first, or nothing; names without a value take what came.
pub fn compare(
    template: &Template,
    packet: &Packet,
    version: Version,
    variables: &mut Variables,
) -> Result<(), String> {
    if template.name != packet.name {
        return Err(format!("another packet: {}", packet.name));
    }
    let mut keys: Vec<&String> = vec![];
    for (key, _) in &template.fields {
        if exists(template.name, key, version) && !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut bound = variables.clone();
    for key in &keys {
        let terms = template.fields.iter().filter(|(k, _)| k == *key).map(|(_, term)| term);
        let terms: Vec<&Term> = terms.collect();
        let values: Vec<&Value> = packet.all(key).collect();
        compare_key(key, &terms, &values, &mut bound)?;
    }
    for (key, value) in &packet.fields {
        let is_free = property_named(key).is_some() && packet.name != "PUBLISH" && !template.only;
        let is_default = default_of(packet.name, key).is_some_and(|default| default == *value);
        if !keys.contains(&key) && !is_free && !is_default {
            return Err(format!("{key}={value} came and is not expected"));
        }
    }
    *variables = bound;
    Ok(())
}

/// Whether a packet of this version has such a field.
fn exists(packet: &str, key: &str, version: Version) -> bool {
    match (version, key) {
        (Version::V5, _) => true,
        (Version::V31, "session") => false,
        (_, "reason") => !has_reason_from_5(packet),
        _ => property_named(key).is_none(),
    }
}

fn compare_key(
    key: &str,
    terms: &[&Term],
    values: &[&Value],
    variables: &mut Variables,
) -> Result<(), String> {
    let came = || match values {
        [] => "none came".to_owned(),
        values => {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("{} came", values.join(", "))
        }
    };
    match terms {
        [Term::Absent] if values.is_empty() => return Ok(()),
        [Term::Absent] => return Err(format!("{key} must be absent, {}", came())),
        [Term::Maybe] => return Ok(()),
        _ => {}
    }
    if terms.len() != values.len() {
        return Err(format!("{key} is expected {} times, {}", terms.len(), came()));
    }
    // The standard gives Subscription Identifiers no order.
    let unordered = key == "subscription_id";
    let mut left: Vec<&Value> = values.to_vec();
    for term in terms {
        let last = if unordered { left.len() } else { 1 };
        let at = (0..last).find(|&at| is_value(term, left[at], variables));
        match at {
            Some(at) => {
                let value = left.remove(at);
                bind(term, value, variables);
            }
            None => {
                return Err(format!(
                    "{key} is expected to be {}, {}",
                    shown(term, variables),
                    came()
                ));
            }
        }
    }
    Ok(())
}

fn is_value(term: &Term, value: &Value, variables: &Variables) -> bool {
    let fits = |choice: &Choice| {
        let fits = match (&choice.what, value) {
            (What::Value(expected), value) => expected == value,
            (What::Variable(name), value) => {
                variables.get(name).is_none_or(|expected| expected == value)
            }
            (What::Ok, Value::Number(reason)) => *reason < 0x80,
            (What::Error, Value::Number(reason)) => *reason >= 0x80,
            _ => false,
        };
        fits != choice.negated
    };
    match term {
        Term::Any | Term::Maybe => true,
        Term::Absent => false,
        // What is negated must be unlike all, else one must fit.
        Term::OneOf(choices) => {
            let mut negated = choices.iter().filter(|choice| choice.negated);
            let mut plain = choices.iter().filter(|choice| !choice.negated).peekable();
            negated.all(fits) && (plain.peek().is_none() || plain.any(fits))
        }
    }
}

fn bind(term: &Term, value: &Value, variables: &mut Variables) {
    if let Term::OneOf(choices) = term
        && let [Choice { negated: false, what: What::Variable(name) }] = &choices[..]
    {
        variables.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn shown(term: &Term, variables: &Variables) -> String {
    let choice = |choice: &Choice| {
        let not = if choice.negated { "not " } else { "" };
        let what = match &choice.what {
            What::Value(value) => value.to_string(),
            What::Variable(name) => match variables.get(name) {
                Some(value) => format!("<{name}>, which is {value}"),
                None => format!("<{name}>"),
            },
            What::Ok => "below 128".into(),
            What::Error => "128 or more".into(),
        };
        format!("{not}{what}")
    };
    match term {
        Term::OneOf(choices) => choices.iter().map(choice).collect::<Vec<_>>().join(" or "),
        other => format!("{other:?}"),
    }
}

/// A packet to be sent, its holes filled.
pub fn filled(template: &Template, variables: &Variables) -> Result<Packet, String> {
    let mut packet = Packet::new(template.name);
    for (key, term) in &template.fields {
        let Term::OneOf(choices) = term else { return Err(format!("{key} has no value")) };
        let value = match choices.first().map(|choice| &choice.what) {
            Some(What::Value(value)) => value.clone(),
            Some(What::Variable(name)) => {
                variables.get(name).cloned().ok_or(format!("<{name}> has no value yet"))?
            }
            _ => return Err(format!("{key} has no value")),
        };
        packet.push(key, value);
    }
    Ok(packet)
}
