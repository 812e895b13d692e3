//! What a callout answers.

use std::sync::Arc;

use serde::Deserialize;

use crate::access::acl::Claims;
use crate::access::acl::roles::{Actions, Rule};
use crate::access::token::claims::allow;
use crate::access::token::jws::Quoted;
use crate::access::verdict::Identity;
use crate::clock::Moment;

/// What it says of a Client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::access) enum Word {
    /// Who it is.
    Allow(Identity),
    /// That it is not let in, and perhaps why.
    Deny(String),
    /// Nothing.
    Ignore,
}

/// The answer as it is written. Members that are not known make it a bad one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    result: Outcome,
    reason: Option<String>,
    username: Option<String>,
    #[serde(default)]
    superuser: bool,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    /// Seconds since the Unix epoch.
    expires_at: Option<u64>,
    /// Seconds.
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Allow,
    Deny,
    Ignore,
}

/// Reads an answer about a Client that has given this user name; the error is what is wrong.
pub(super) fn read(text: &str, username: Option<&str>, wall: Moment) -> Result<Word, String> {
    let answer: Answer = serde_json::from_str(text).map_err(|error| what(&error))?;
    match answer.result {
        Outcome::Ignore => Ok(Word::Ignore),
        Outcome::Deny => Ok(Word::Deny(
            answer.reason.map_or(String::new(), |reason| Quoted(&reason).to_string()),
        )),
        Outcome::Allow => answer.identity(username, wall).map(Word::Allow),
    }
}

/// What is wrong, without the values that are.
fn what(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let is_of_names = ["unknown", "missing", "duplicate"].iter().any(|word| said.starts_with(word));
    match is_of_names {
        true => format!("its answer is not as it must be: {}", Quoted(&said)),
        false => {
            let (line, column) = (error.line(), error.column());
            format!("its answer is not as it must be, at line {line} column {column}")
        }
    }
}

impl Answer {
    fn identity(&self, username: Option<&str>, wall: Moment) -> Result<Identity, String> {
        let name = self.username.as_deref().or(username);
        let fits = |name: &str| {
            !name.is_empty()
                && name.len() <= usize::from(u16::MAX)
                && !name.contains(char::is_control)
        };
        if self.username.as_deref().is_some_and(|name| !fits(name)) {
            return Err("its `username` is no user name".into());
        }
        let end = self.expires_at.map(|end| Moment::default().after_s(end));
        let after = self.expires_in.map(|seconds| wall.after_s(seconds));
        let claims = Claims {
            roles: self.roles.clone(),
            groups: self.groups.clone(),
            rules: self.rules()?,
            is_superuser: self.superuser,
        };
        Ok(Identity {
            username: name.filter(|name| !name.is_empty()).map(Into::into),
            claims: Some(Arc::new(claims)),
            expires_at: [end, after].into_iter().flatten().min(),
        })
    }

    fn rules(&self) -> Result<Option<Vec<Rule>>, String> {
        if self.publish.is_none() && self.subscribe.is_none() {
            return Ok(None);
        }
        let lists = [
            (&self.publish, Actions::PUBLISH),
            (&self.subscribe, Actions::SUBSCRIBE | Actions::RECEIVE),
        ];
        let mut rules = Vec::new();
        for (filters, actions) in lists {
            for filter in filters.iter().flatten() {
                rules.push(
                    allow(actions, filter)
                        .ok_or_else(|| format!("{} is no Topic Filter", Quoted(filter)))?,
                );
            }
        }
        Ok(Some(rules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_unix_ms(1_800_000_000_000);

    fn read(text: &str) -> Result<Word, String> {
        super::read(text, Some("ali"), NOW)
    }

    fn identity(text: &str) -> Identity {
        match read(text) {
            Ok(Word::Allow(identity)) => identity,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_allows_denies_or_says_nothing() {
        assert_eq!(identity(r#"{"result": "allow"}"#).username.as_deref(), Some("ali"));
        let other = identity(r#"{"result": "allow", "username": "baba"}"#);
        assert_eq!(other.username.as_deref(), Some("baba"));
        assert_eq!(read(r#"{"result": "ignore"}"#), Ok(Word::Ignore));
        assert_eq!(read(r#"{"result": "deny"}"#), Ok(Word::Deny(String::new())));
        let word = read(r#"{"result": "deny", "reason": "no\nmoney"}"#);
        assert_eq!(word, Ok(Word::Deny("\"no\\nmoney\"".into())));
    }

    #[test]
    fn an_answer_gives_rights_and_an_end() {
        let given = identity(
            r#"{"result": "allow", "roles": ["r"], "groups": ["g"], "publish": ["a/%u"],
               "expires_in": 10, "expires_at": 1800000005}"#,
        );
        let claims = given.claims.unwrap();
        assert_eq!((&*claims.roles, &*claims.groups), (&["r".into()][..], &["g".into()][..]));
        assert_eq!(claims.rules, Some(vec![allow(Actions::PUBLISH, "a/%u").unwrap()]));
        assert!(!claims.is_superuser);
        assert_eq!(given.expires_at, Some(NOW.after_s(5)));
        assert_eq!(identity(r#"{"result": "allow"}"#).claims.unwrap().rules, None);
        let nothing = identity(r#"{"result": "allow", "subscribe": [], "superuser": true}"#);
        let claims = nothing.claims.unwrap();
        assert_eq!((claims.rules.as_deref(), claims.is_superuser), (Some(&[][..]), true));
        let far = identity(r#"{"result": "allow", "expires_at": 18446744073709551615}"#);
        assert_eq!(far.expires_at, Some(Moment::NEVER));
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        for bad in [
            "",
            "allow",
            "[]",
            "{}",
            r#"{"result": "ok"}"#,
            r#"{"result": "allow", "publsh": []}"#,
            r#"{"result": "allow", "superuser": "yes"}"#,
            r#"{"result": "allow", "publish": "a"}"#,
            r#"{"result": "allow", "publish": ["a/#/b"]}"#,
            r#"{"result": "allow", "username": ""}"#,
            r#"{"result": "allow", "expires_in": -1}"#,
            r#"{"result": "allow", "result": "deny"}"#,
            r#"{"result": "allow"} {"result": "deny"}"#,
        ] {
            let error = read(bad).expect_err(bad);
            assert!(error.len() < 200, "{error}");
        }
    }
}
