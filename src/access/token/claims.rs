//! What a verified token says: for whom it is, until when it holds, who the Client is by it and
//! what the Client may do. A function of the claims, the settings and the time.

use serde_json::{Map, Value};

use super::Options;
use super::jws::Quoted;
use crate::access::acl::Claims;
use crate::access::acl::pattern::Pattern;
use crate::access::acl::roles::{Actions, Rule};
use crate::access::verdict::Identity;
use crate::clock::Moment;

/// Members of a token.
pub type Members = Map<String, Value>;

/// Reads the claims of a token.
pub fn read(payload: &[u8]) -> Result<Members, String> {
    serde_json::from_slice(payload).map_err(|_| "its claims are no JSON object".into())
}

/// Who has issued it, as it says.
pub fn issuer(members: &Members) -> Option<&str> {
    members.get("iss").and_then(Value::as_str)
}

/// Who the Client is by these claims; the error is why nobody.
pub fn judge(
    members: &Members,
    options: &Options,
    username: Option<&str>,
    wall: Moment,
) -> Result<Identity, String> {
    let expires_at = in_time(members, options, wall)?;
    is_for_us(members, options)?;
    let name = find(members, &options.username_claim).and_then(Value::as_str).unwrap_or_default();
    let fits = !name.is_empty() && name.len() <= usize::from(u16::MAX);
    if !fits || name.contains(char::is_control) {
        return Err(format!("its claim `{}` is no user name", options.username_claim));
    }
    if options.checks_username && username != Some(name) {
        return Err(format!("it is for the user {}", Quoted(name)));
    }
    let names = |claim: &Option<String>| match claim {
        Some(claim) => texts(members, claim, true),
        None => Ok(Vec::new()),
    };
    let claims = Claims {
        roles: names(&options.roles_claim)?,
        groups: names(&options.groups_claim)?,
        rules: rules(members, options)?,
        is_superuser: false,
    };
    Ok(Identity { username: Some(name.into()), claims: Some(claims.into()), expires_at })
}

/// When it stops holding, with leeway, if it is valid now.
fn in_time(members: &Members, options: &Options, wall: Moment) -> Result<Option<Moment>, String> {
    let leeway_ms = u64::try_from(options.leeway.as_millis()).unwrap_or(u64::MAX);
    if let Some(begin) = time(members, "nbf")?
        && begin > wall.after_ms(leeway_ms)
    {
        return Err(format!("it holds in {} s only", begin.since(wall).div_ceil(1000)));
    }
    let end = time(members, "exp")?.map(|end| end.after_ms(leeway_ms));
    match end {
        Some(end) if end <= wall => Err(format!(
            "it has expired {} s ago",
            wall.since(end).saturating_add(leeway_ms) / 1000
        )),
        None if options.needs_expiry => Err("it has no `exp`".into()),
        end => Ok(end),
    }
}

/// A time of RFC 7519: seconds since the Unix epoch, also with a fraction.
fn time(members: &Members, claim: &str) -> Result<Option<Moment>, String> {
    let Some(value) = members.get(claim) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
    let Some(seconds) = seconds else { return Err(format!("its `{claim}` is no time")) };
    // What is beyond the numbers is the last of them.
    Ok(Some(Moment::from_unix_ms((seconds * 1000.0) as u64)))
}

fn is_for_us(members: &Members, options: &Options) -> Result<(), String> {
    if options.issuer.is_some() && options.issuer.as_deref() != issuer(members) {
        let issuer = issuer(members).unwrap_or_default();
        return Err(format!("it is from the issuer {}", Quoted(issuer)));
    }
    let audience = match members.contains_key("aud") {
        true => texts(members, "aud", false)?,
        false => Vec::new(),
    };
    let is_meant = audience.iter().any(|name| options.audience.contains(name));
    match (options.audience.is_empty(), audience.first()) {
        (true, None) => Ok(()),
        // Who is not named must not take it [RFC 7519, section 4.1.3].
        (true, Some(name)) => {
            Err(format!("it is for the `audience` {}, and none is configured", Quoted(name)))
        }
        _ if is_meant => Ok(()),
        (false, name) => {
            let name = name.map_or("", String::as_str);
            Err(format!("it is for the `audience` {}", Quoted(name)))
        }
    }
}

/// A member by its name, or by the path to it with dots.
fn find<'m>(members: &'m Members, path: &str) -> Option<&'m Value> {
    if let Some(value) = members.get(path) {
        return Some(value);
    }
    let mut names = path.split('.');
    let first = members.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

/// A list of texts, or one; `splits`: which may hold several with spaces between them, as OAuth
/// has it.
fn texts(members: &Members, claim: &str, splits: bool) -> Result<Vec<String>, String> {
    match find(members, claim) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) if splits => {
            Ok(text.split_ascii_whitespace().map(Into::into).collect())
        }
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(values)) => {
            let texts = values.iter().map(|value| value.as_str().map(Into::into));
            texts.collect::<Option<_>>().ok_or_else(|| no_texts(claim))
        }
        Some(_) => Err(no_texts(claim)),
    }
}

fn no_texts(claim: &str) -> String {
    format!("its claim `{claim}` is no text and no list of texts")
}

/// The rules that it gives, where it is asked for them.
fn rules(members: &Members, options: &Options) -> Result<Option<Vec<Rule>>, String> {
    let Options { publish_claim, subscribe_claim, .. } = options;
    if publish_claim.is_none() && subscribe_claim.is_none() {
        return Ok(None);
    }
    let asked = [
        (publish_claim, Actions::PUBLISH),
        (subscribe_claim, Actions::SUBSCRIBE | Actions::RECEIVE),
    ];
    let mut rules = Vec::new();
    for (claim, actions) in asked {
        let Some(claim) = claim else { continue };
        for filter in texts(members, claim, false)? {
            rules.push(allow(actions, &filter).ok_or_else(|| {
                format!("its claim `{claim}` has {}, which is no Topic Filter", Quoted(&filter))
            })?);
        }
    }
    Ok(Some(rules))
}

/// A rule that a proof of identity gives; `None` for what is no Topic Filter.
pub(in crate::access) fn allow(actions: Actions, filter: &str) -> Option<Rule> {
    let topic = Pattern::new(filter).ok().filter(|pattern| !pattern.has_stray())?;
    Some(Rule { allows: true, actions, topic: Some(topic), ..Rule::default() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW_S: u64 = 1_700_000_000;

    fn options() -> Options {
        Options { leeway: Duration::from_secs(5), ..Options::default() }
    }

    fn judged(value: Value, options: &Options) -> Result<Identity, String> {
        let members = value.as_object().unwrap();
        judge(members, options, Some("ali"), Moment::from_unix_ms(NOW_S * 1000))
    }

    fn why(value: Value, options: &Options) -> String {
        judged(value, options).expect_err("it is refused")
    }

    #[test]
    fn a_token_holds_from_its_beginning_to_its_end_with_leeway() {
        let at = |name: &str, seconds: i64| {
            let time = NOW_S as i64 + seconds;
            let mut value = json!({"sub": "ali", "exp": NOW_S + 100});
            value[name] = json!(time);
            judged(value, &options())
        };
        let until = at("exp", 10).unwrap().expires_at.unwrap();
        assert_eq!(until, Moment::from_unix_ms((NOW_S + 15) * 1000));
        assert!(at("exp", -4).is_ok() && at("nbf", 5).is_ok());
        assert_eq!(at("exp", -5).unwrap_err(), "it has expired 5 s ago");
        assert_eq!(at("exp", -3600).unwrap_err(), "it has expired 3600 s ago");
        assert_eq!(at("nbf", 6).unwrap_err(), "it holds in 6 s only");
        assert_eq!(why(json!({"sub": "ali"}), &options()), "it has no `exp`");
        let forever = Options { needs_expiry: false, ..options() };
        assert_eq!(judged(json!({"sub": "ali"}), &forever).unwrap().expires_at, None);
    }

    #[test]
    fn a_time_that_is_none_is_not_passed_over() {
        let forever = Options { needs_expiry: false, ..options() };
        for bad in [json!("1700000100"), json!(-1), json!(null), json!([1]), json!(true)] {
            for claim in ["exp", "nbf"] {
                let mut value = json!({"sub": "ali"});
                value[claim] = bad.clone();
                assert_eq!(why(value, &forever), format!("its `{claim}` is no time"), "{bad}");
            }
        }
        for good in [json!(1e300), json!(u64::MAX), json!(1_700_000_100.5)] {
            assert!(judged(json!({"sub": "ali", "exp": good}), &forever).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_is_from_the_issuer_and_for_the_audience_that_are_configured() {
        let strict = Options {
            issuer: Some("us".into()),
            audience: vec!["mqtt".into(), "iot".into()],
            ..options()
        };
        let token = |iss: Value, aud: Value| json!({"sub": "ali", "exp": NOW_S + 10, "iss": iss, "aud": aud});
        assert!(judged(token(json!("us"), json!("iot")), &strict).is_ok());
        assert!(judged(token(json!("us"), json!(["x", "mqtt"])), &strict).is_ok());
        for (iss, aud) in [
            (json!("them"), json!("mqtt")),
            (json!(["us"]), json!("mqtt")),
            (json!("us"), json!("web")),
            (json!("us"), json!([])),
            (json!("us"), json!(["web", 1])),
            (json!("us"), json!({"mqtt": 1})),
        ] {
            why(token(iss, aud), &strict);
        }
        assert!(why(json!({"sub": "ali", "exp": NOW_S + 10}), &strict).contains("issuer"));
        // Who is not told for whom tokens are takes none that is for somebody.
        assert!(why(token(json!("us"), json!("mqtt")), &options()).contains("none is configured"));
    }

    #[test]
    fn a_user_name_is_a_claim_by_its_name_or_by_its_path() {
        let named = |claim: &str, value: Value| {
            let mut value = value;
            value["exp"] = json!(NOW_S + 10);
            judged(value, &Options { username_claim: claim.into(), ..options() })
        };
        let name = |claim: &str, value: Value| named(claim, value).unwrap().username.unwrap();
        assert_eq!(&*name("a.b", json!({"a": {"b": "x"}, "sub": "s"})), "x");
        assert_eq!(&*name("https://a.b/c", json!({"https://a.b/c": "x"})), "x");
        for bad in [json!({}), json!({"sub": ""}), json!({"sub": 1}), json!({"sub": "a\u{0}"})] {
            assert_eq!(named("sub", bad).unwrap_err(), "its claim `sub` is no user name");
        }
        let same = Options { checks_username: true, ..options() };
        assert!(judged(json!({"sub": "ali", "exp": NOW_S + 10}), &same).is_ok());
        let other = why(json!({"sub": "baba", "exp": NOW_S + 10}), &same);
        assert_eq!(other, "it is for the user \"baba\"");
    }

    #[test]
    fn roles_and_rules_are_taken_from_the_claims_that_are_named() {
        let options = Options {
            roles_claim: Some("realm_access.roles".into()),
            groups_claim: Some("scope".into()),
            publish_claim: Some("pub".into()),
            subscribe_claim: Some("sub_to".into()),
            ..options()
        };
        let token = |extra: Value| {
            let mut value = json!({"sub": "ali", "exp": NOW_S + 10});
            for (name, extra) in extra.as_object().unwrap() {
                value[name] = extra.clone();
            }
            judged(value, &options)
        };
        let identity = token(json!({
            "realm_access": {"roles": ["a", "b"]}, "scope": "c d",
            "pub": "up/%c/#", "sub_to": ["down/+", "all"],
        }));
        let claims = identity.unwrap().claims.unwrap();
        assert_eq!(
            (&*claims.roles, &*claims.groups),
            (&["a", "b"].map(String::from)[..], &["c".to_owned(), "d".into()][..])
        );
        let both = Actions::SUBSCRIBE | Actions::RECEIVE;
        let rules = ["up/%c/#"].map(|f| allow(Actions::PUBLISH, f)).into_iter();
        let rules: Option<Vec<_>> =
            rules.chain(["down/+", "all"].map(|f| allow(both, f))).collect();
        assert_eq!(claims.rules, rules);
        // Without the claims it may nothing.
        assert_eq!(token(json!({})).unwrap().claims.unwrap().rules, Some(vec![]));
        for bad in [
            json!({"pub": "a/#/b"}),
            json!({"pub": ["a", 1]}),
            json!({"sub_to": {}}),
            json!({"scope": 1}),
            json!({"pub": "a/x%u"}),
        ] {
            assert!(token(bad.clone()).is_err(), "{bad}");
        }
    }
}
