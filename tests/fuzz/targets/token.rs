//! Tokens and keys: whatever a Client gives as its password and an address as its keys, what is
//! taken for good has been signed and says who it is for how long.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use whimbrel::access::token::jws::{Algorithm, Fault, TOKEN_LEN_MAX, Token};
use whimbrel::access::token::key::{Found, Keys};
use whimbrel::access::token::{Options, claims};
use whimbrel::clock::Moment;

/// A letter for what the rest is: parts of a token, a token as it is, or keys.
pub fn run(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind {
        b't' => {
            let parts: Vec<_> = rest.splitn(3, |byte| *byte == b'.').collect();
            let parts: Vec<_> = parts.into_iter().map(Base64UrlUnpadded::encode_string).collect();
            token(parts.join(".").as_bytes());
        }
        b'r' => token(rest),
        b'k' => keys(rest),
        _ => {}
    }
}

fn token(text: &[u8]) {
    let token = match Token::parse(text) {
        Ok(token) => token,
        Err(Fault::NoToken) => return,
        Err(Fault::Bad(why)) => return one_short_line(&why),
    };
    assert!(text.len() <= TOKEN_LEN_MAX && Algorithm::named("none").is_none());
    assert!(token.signed.len() < text.len() && text.starts_with(token.signed));
    let secret = r#"{"kty":"oct","k":"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"}"#;
    // Nobody who fuzzes can sign.
    let found = Keys::of_json(secret, true).expect("a good key").find(&token);
    assert!(found != Found::Signed, "{}", String::from_utf8_lossy(text));
    let members = match claims::read(&token.payload) {
        Ok(members) => members,
        Err(why) => return one_short_line(&why),
    };
    let now = Moment::from_unix_ms(1_800_000_000_000);
    let options = Options {
        audience: vec!["mqtt".into()],
        leeway: Duration::from_secs(5),
        roles_claim: Some("roles".into()),
        publish_claim: Some("may.pub".into()),
        ..Options::default()
    };
    match claims::judge(&members, &options, Some("ali"), now) {
        Ok(identity) => {
            assert!(identity.expires_at.expect("it is needed") > now);
            let name = identity.username.expect("it is needed");
            assert!(!name.is_empty() && !name.contains(char::is_control));
            let rules = identity.claims.expect("they are asked for").rules.clone();
            assert!(rules.expect("they are asked for").iter().all(|rule| rule.topic.is_some()));
        }
        Err(why) => one_short_line(&why),
    }
}

fn keys(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    match (Keys::of_json(text, true), Keys::of_json(text, false)) {
        (Ok(all), Ok(public)) => assert!(all.len() >= public.len() && !public.is_empty()),
        (Ok(all), Err(why)) => {
            assert!(!all.is_empty());
            one_short_line(&why);
        }
        (Err(why), Err(other)) => {
            one_short_line(&why);
            one_short_line(&other);
        }
        (Err(why), Ok(_)) => panic!("without secrets it is good: {why}"),
    }
}

fn one_short_line(why: &str) {
    assert!(!why.is_empty() && !why.contains(char::is_control) && why.len() < 1000, "{why:?}");
}
