//! Keys and tokens made by `tests/clients/make_token.py`, with openssl and Python's HMAC.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::access::problem::FileError;

/// A set of public keys and a secret.
const KEYS: &str = r#"{"keys": [
    {"kty": "RSA", "use": "sig", "kid": "r", "n": "0fSP6AGWT5J-k5ZAzD4Nh54RRTjP9E9Mov3ov5C7Re2Hx53-eaA7_GqSDsaNotaMdoMyPMRC00mbIRIylPFhPjJgxEXkMfPEe9aecnBOA33EHPv_ooPO2PgTmoH2xnfl8xR1S_rKSE9cpVPmY5rJYp6NNdR2no75Xm80jPWIbO_X-QfL511EUDjB_2feSKFuzZ53p9LK7pin9Lts1PMzTBv8WxMRWZv2ix-QkfGXfCyFZ45FwuJ0d35DkoGIdE9sjZq9ms37MSbucNEtsEK7Lw2-mD3YoSs1nhqPgndYt1zF2o6YJ2093L5aIbqlFzVw1Jv50E5u9rZT6lcfx7lNGw", "e": "AQAB"},
    {"kty": "EC", "crv": "P-256", "kid": "a", "x": "YY2YxpdYp_8Z6WJX3pG8IVwC_LCXQEzRv8-zsuwDYLc", "y": "gzeiHOpNAFYOfVn97WY8CtYVH8q51unuKD0HS0oxzmw"},
    {"kty": "EC", "crv": "P-384", "kid": "b", "x": "b-ZJkL42kPhXtqvehZkYEem7bAu9hxM2Pf-tir0rqChhC3V59sJqWJE6tLCPzltz", "y": "ZpkXednOon9wUH6CfXpLNpQ8v_zI5pztTV8ozfIpdUZP5Vum8dMTkM5dFLVwBuGE"},
    {"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": "-bD75UA6vU9nLH5Ry5RkQmhx5xvYKt7pPcnmPREnPYw"},
    {"kty": "oct", "kid": "s", "k": "YmM0N2VkZmE2NmMyNWMxMGRiMjkwZGRmYzI2YzYzMGVlYmM3OTkzNzEyZmI2YWFmOWRkNzgyYTNiYjg4MGE4Ng"}
]}"#;

const RSA_PEM: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0fSP6AGWT5J+k5ZAzD4N\n\
h54RRTjP9E9Mov3ov5C7Re2Hx53+eaA7/GqSDsaNotaMdoMyPMRC00mbIRIylPFh\n\
PjJgxEXkMfPEe9aecnBOA33EHPv/ooPO2PgTmoH2xnfl8xR1S/rKSE9cpVPmY5rJ\n\
Yp6NNdR2no75Xm80jPWIbO/X+QfL511EUDjB/2feSKFuzZ53p9LK7pin9Lts1PMz\n\
TBv8WxMRWZv2ix+QkfGXfCyFZ45FwuJ0d35DkoGIdE9sjZq9ms37MSbucNEtsEK7\n\
Lw2+mD3YoSs1nhqPgndYt1zF2o6YJ2093L5aIbqlFzVw1Jv50E5u9rZT6lcfx7lN\n\
GwIDAQAB\n\
-----END PUBLIC KEY-----";

/// For ali, until 2100; one for each algorithm.
const TOKENS: [(&str, &str); 12] = [
    (
        "HS256",
        "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.HFB\
         tND-mdEY-3JKyvk6Sb40MX4B5Z_M46_crRlk1maE",
    ),
    (
        "HS384",
        "eyJhbGciOiAiSFMzODQiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.Q8x\
         ZtqMsivmWd3Ff3QUAdDaCKLaPS5gUq6ZsE24syKDLSYC5eHqcy4IAPipJcee2",
    ),
    (
        "HS512",
        "eyJhbGciOiAiSFM1MTIiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.vIn\
         9IEWelOVrVY3RwO_Cwf3OsJ9312u9pcsSYbf8VEQEbN1hLMs9qGBiZPg5yqg1eyzB2IaWxop6ED51GSLbVQ",
    ),
    (
        "RS256",
        "eyJhbGciOiAiUlMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.bAk\
         lfL9T4YkZ3p-MtlY4lzznHDUdLWjOu1rpoyO3sTq_reKensViXhNj2u2tYeFZ0tEMgo9cgiKngZjwPRDq9rdH\
         r8FkVt7h4uGVTnImgPAwtIEHlI3eGoBXrJoxXBWpI8_qHG8vk3CkhN8zaDkEdTiptTWYUtkeJ1ndANoKKgtrH\
         OpcpbkpJP3dGnk9-1fzgUWUjKZMo_5kaKlY2DzOmEQgHH9AohmlnghOOy5IVWGhA8Jp8hXz2BAnkI4hRBDLzy\
         pz6zdMG5R7FURoKpAuGiJmoGr1bB7JeCbcxNo0yypdK7ZeiYP6gtQ_B7vCVx8njr0XF36rspuXVmtR6VVgBQ",
    ),
    (
        "RS384",
        "eyJhbGciOiAiUlMzODQiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.qv1\
         0ov_O7x-ihBqSaUYuPawTKhgWrrL2O2CZweSMLbhJXHwsSbgdmpKdxVJwtJZDYOjCGO0yT_tJp2PJX6D8_dRA\
         -QJnbx_yhiXfvi-hI2qpcsu2uDO5_Bb2AVzRwpxFreteA6Aa7666mHbN-fU2-dCnzjxOhly2p9onEQff5uWhi\
         RmEnf7iPy2Pt8vNHtT6Cm4KPn6ueno3bb_HjVsBFeD1mYxI8PMy14D_vq4kaU2fT2f-Fo8FGkFl7QOz_03Bw_\
         bad7FN-E7XnzBQ-0zb6yIP2Pj9EPr5qy4WrW9N-xFsB9uUBz7938Iy2dOl-mmEs7N3d4qS9RjelvQaWWwNxQ",
    ),
    (
        "RS512",
        "eyJhbGciOiAiUlM1MTIiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.uSD\
         YvfugHFnSUUzwC7YVQCaioOdaIgHOzc_oZ5bVT3Syc9mO0fEQqB5dZgMMOrBJ5eJqAxKC42LOKEfTfLmZJOHq\
         B78fEkrf4qXcU6DAanBO6f8ljIWqPkFeDFzUFVNVO5JejnTNv_n9IK4jb7Ng_pvi7DZrcqY05_EcMuxSEcwDq\
         Pm0OtNRR-rA4nUjNKqgi98gnBvRhFZg_azJqw8ymIfOrebFpLEcmDO86BVIcU5ppHORUoXd95hPmeBZ0Ws9H5\
         goQuat2b_ToKEsDjPYpqRq-yxXk8ICR6dlAZGE9lKdY1MJho2fUe-23hNcTQSxFhrk9LtYELpMIIDi_CkPNg",
    ),
    (
        "PS256",
        "eyJhbGciOiAiUFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.C0S\
         Prdzqhc4zkqUUMc1DSBeKAdyZUqVxIOlHF3z2w5UXshwJyknPS4olA_dLGc90m3TSOE7BAte88yacMe4BThIB\
         tf464UTN5okcuE7DaK_AWhCNaZho2O3yWRF9q0RYss0DWcq-aza2Au0xvNigbKx3nU7dsE_4yRVLmT7lg6erC\
         hbt8kxOiuJRduc-7kI2Q-P7D4qnQEtGQranSw0PA7TS2euzfEvjJUHvBMcZzHeyDsyw7QrJis-Omdt-qs9wcN\
         AhO8E9_0qSHaeBlxtpMGFzwjJeJ_J80GhCH3y2lgMQ28xdZdd3llAilNl_iXceF_c72TmiqBwPeefRgJ-Kyg",
    ),
    (
        "PS384",
        "eyJhbGciOiAiUFMzODQiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.cDi\
         9y0ydSBRgGw5DLR3Wi4Ljz7GkXsU8BwuFtbGaWiUqfUIV3udAxaUjnOCDMzmYzHgnvHiTs3EzeEnnQ-BmpLwr\
         UCuDhXqrFPraU-47jV0ZM_I4VAQ2oo1pTW20LpZIIcVKknuC9Hn23YD22oIWqSxJHKLz2y0HA0qAtjTWnbVXb\
         T4seIbZUZZrHTc4H76fED36chqOGLgxHJffeSBBL3sJ0r-XPoaEj0OCDTwH4jpJmXGXzbXGTR7UM0KlgCsApP\
         bKoYlarMRyDOKnh9xisvORN2INiL8rM8vxMCBoL8N5sr_1ISl8GqrhiIDVgk-pgR6nGfktUOhcUIj07WotFA",
    ),
    (
        "PS512",
        "eyJhbGciOiAiUFM1MTIiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.Tqw\
         XC0u_InFkT0fjkIbYxk1uEpX6GyNuq8fk5VEkoxPVTjO7nkj6Zaj9lRcITnilfJiSHhfQxFYxnlJgVl9znZcT\
         K34BLLORvv3Ye5sQUMEU2lhOBKt7OHM3v4n0UzuHC_ArXGQUJBLBGMP-nLCS_v3TJEABQn-G-1wZirC1m0Iij\
         R30unvJQxRDUObPNU33Vc8Q-OR6g9atMqSA2SqetNUqCD-6m345uYlgh_EqoFpGiul-VIT0bsAOwiPgCrlc9Z\
         9QFjVl8NW3lHeiB-od9qPFzWkGBSwJSlysQleTXbsBKKQDWgUka01rAGuVuJOTYiCyCyfRjzhHpzscqb_CQg",
    ),
    (
        "ES256",
        "eyJhbGciOiAiRVMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.zDR\
         0M2dD8Dk6HUf5Z5iS9TxM3173U5RoVidxtE9D3v9ERVV6H9bWFo5Mol-v2JcRlEU62MvR_-x5F-vdzfhmHg",
    ),
    (
        "ES384",
        "eyJhbGciOiAiRVMzODQiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.rDS\
         DE2_4bIZKEbOj5053t7pgPJtVv9lDYnMrXRBFV76wnkw8ODAKC0LsuKE9jNukCAjVzN_VhR5msOpwpBftUNDl\
         aavHauSBpAU-ZttR-aB7fsCr2F3jAYMPpccO7M8c",
    ),
    (
        "EdDSA",
        "eyJhbGciOiAiRWREU0EiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.8Na\
         Yfv7DOr1U0yIEuUh0YwsNwCctqDEfSYQZPCUMsw8PpeJOU-CZvCQQDvksukKugAZqCR_4xMXJbasGr2RLDQ",
    ),
];

/// Signed with the text of the RSA key as the secret of HS256.
const CONFUSED: &str = "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiJhbGkiLCJleHAiOjQxMDI0NDQ4MDB9.JhK\
         QLn50q2kAlllElarKVqUmeaGD-4QqKFtTvnJ60hE";

const NOW: Moment = Moment::from_unix_ms(1_800_000_000_000);

fn keys() -> Keys {
    Keys::of_json(KEYS, true).unwrap()
}

/// Only the keys of this kind.
fn only(kind: &str) -> Keys {
    let set: Value = serde_json::from_str(KEYS).unwrap();
    let is_it = |key: &&Value| key["kty"] == kind;
    let kept: Vec<&Value> = set["keys"].as_array().unwrap().iter().filter(is_it).collect();
    Keys::of_json(&json!({ "keys": kept }).to_string(), true).unwrap()
}

fn with(options: Options, keys: Keys) -> Tokens {
    let http = options.http().unwrap();
    Tokens::start(options, Some(keys), http, Arc::default()).unwrap()
}

/// The user, or why there is none.
fn judge(tokens: &Tokens, text: &str) -> Result<String, String> {
    match tokens.judge(None, text.as_bytes(), NOW) {
        Judgement::Admitted(identity) => Ok(identity.username.unwrap().to_string()),
        Judgement::Refused(why) => Err(format!("refused: {why}")),
        Judgement::NoKey(why) => Err(format!("no key: {why}")),
        Judgement::Unknown(why) => Err(format!("unknown: {}", why.unwrap_or_default())),
    }
}

fn token(name: &str) -> &'static str {
    TOKENS.iter().find(|(known, _)| *known == name).unwrap().1
}

/// The same token with another header or other claims, signed as before.
fn altered(token: &str, part: usize, text: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(Into::into).collect();
    use base64ct::{Base64UrlUnpadded, Encoding};
    parts[part] = Base64UrlUnpadded::encode_string(text.as_bytes());
    parts.join(".")
}

#[test]
fn tokens_of_openssl_and_python_are_verified_by_every_algorithm() {
    let tokens = with(Options::default(), keys());
    for (name, text) in TOKENS {
        assert_eq!(judge(&tokens, text), Ok("ali".into()), "{name}");
        // One bit of the claims, and one of the signature.
        let claims = altered(text, 1, r#"{"sub":"alj","exp":4102444800}"#);
        assert_eq!(
            judge(&tokens, &claims),
            Err("refused: its signature is wrong".into()),
            "{name}"
        );
        let at = text.rfind('.').unwrap() + 5;
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        let signature = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert_eq!(judge(&tokens, &signature), Err("refused: its signature is wrong".into()));
        let none = format!("{}.", &text[..text.rfind('.').unwrap()]);
        assert_eq!(judge(&tokens, &none), Err("refused: its signature is wrong".into()));
    }
}

#[test]
fn a_key_verifies_only_the_algorithms_of_its_kind() {
    for (kind, prefixes) in
        [("RSA", &["RS", "PS"][..]), ("EC", &["ES"]), ("OKP", &["Ed"]), ("oct", &["HS"])]
    {
        let tokens = with(Options::default(), only(kind));
        for (name, text) in TOKENS {
            let judged = judge(&tokens, text);
            match prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                true => assert_eq!(judged, Ok("ali".into()), "{kind} {name}"),
                false => assert_eq!(judged, Err(format!("no key: there is no key for its {name}"))),
            }
        }
    }
    // The classic: a public key's text as a secret.
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), format!("{RSA_PEM}\n")).unwrap();
    let tokens = with(Options::default(), Keys::read(pem.path()).unwrap());
    assert_eq!(judge(&tokens, token("PS384")), Ok("ali".into()));
    assert_eq!(judge(&tokens, CONFUSED), Err("no key: there is no key for its HS256".into()));
    let error = Keys::read_secret(pem.path()).unwrap_err().to_string();
    assert!(error.contains("it holds a key, not a secret: name it in `key_file`"), "{error}");
}

#[test]
fn none_is_no_algorithm_and_those_that_are_not_listed_are_refused() {
    let tokens = with(Options::default(), keys());
    for name in ["none", "None", "nOnE"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        let text = altered(token("ES256"), 0, &header);
        let unsigned = format!("{}.", &text[..text.rfind('.').unwrap()]);
        for text in [text, unsigned] {
            assert_eq!(judge(&tokens, &text), Err(format!("refused: it is signed by {name:?}")));
        }
    }
    let algorithms = vec![Algorithm::Ps256, Algorithm::Es256];
    let tokens = with(Options { algorithms, ..Options::default() }, keys());
    assert_eq!(judge(&tokens, token("PS256")), Ok("ali".into()));
    let why = "refused: it is signed by RS256, which is not allowed";
    assert_eq!(judge(&tokens, token("RS256")), Err(why.into()));
}

#[test]
fn a_key_with_a_name_is_for_the_tokens_that_name_it_and_for_those_that_name_none() {
    let tokens = with(Options::default(), keys());
    let named =
        |kid: &str| altered(token("ES256"), 0, &format!(r#"{{"alg":"ES256","kid":{kid}}}"#));
    // The header is signed too; what matters is whether a key is found.
    assert_eq!(judge(&tokens, &named("\"a\"")), Err("refused: its signature is wrong".into()));
    let other = "no key: there is no key called \"b\" for its ES256";
    assert_eq!(judge(&tokens, &named("\"b\"")), Err(other.into()));
    assert_eq!(judge(&tokens, &named("7")), Err("unknown: ".into()));
    let long = judge(&tokens, &named(&format!("{:?}", "x".repeat(5000)))).unwrap_err();
    assert!(long.len() < 150, "{long}");
}

#[test]
fn a_key_with_an_algorithm_is_for_that_one_only() {
    let text = KEYS.replace(r#""kid": "r""#, r#""kid": "r", "alg": "RS384""#);
    let tokens = with(Options::default(), Keys::of_json(&text, true).unwrap());
    assert_eq!(judge(&tokens, token("RS384")), Ok("ali".into()));
    assert_eq!(judge(&tokens, token("RS256")), Err("no key: there is no key for its RS256".into()));
}

#[test]
fn tokens_of_other_issuers_are_left_to_others_and_bad_claims_are_not() {
    let options = Options { issuer: Some("us".into()), ..Options::default() };
    let tokens = with(options, keys());
    assert_eq!(judge(&tokens, token("ES256")), Err("unknown: it is from the issuer \"\"".into()));
    let options = Options { username_claim: "email".into(), ..Options::default() };
    let why = "refused: its claim `email` is no user name";
    assert_eq!(judge(&with(options, keys()), token("ES256")), Err(why.into()));
    let tokens = with(Options::default(), keys());
    let late = Moment::from_unix_ms(4_102_444_805_000);
    let judged = tokens.judge(None, token("ES256").as_bytes(), late);
    assert!(matches!(judged, Judgement::Refused(why) if why == "it has expired 5 s ago"));
    for bad in ["", "[]", "{", "7", "{\"sub\":\"ali\"} x"] {
        let judged = judge(&tokens, &altered(token("ES256"), 1, bad));
        assert_eq!(judged, Err("refused: its claims are no JSON object".into()), "{bad}");
    }
    // Deeper than anybody reads.
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert!(judge(&tokens, &altered(token("ES256"), 1, &deep)).is_err());
}

#[test]
fn what_is_random_is_never_admitted_and_ends_nothing() {
    let tokens = with(Options::default(), keys());
    let good = token("RS256").as_bytes();
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..2000 {
        let mut text = good.to_vec();
        for _ in 0..=random(3) {
            match random(4) {
                0 => text[random(good.len())] = random(256) as u8,
                1 => text.truncate(random(text.len()) + 1),
                2 => text.insert(random(text.len()), b'.'),
                _ => text.extend_from_within(..random(text.len())),
            }
            if text.len() < good.len() {
                text.resize(good.len(), b'A');
            }
        }
        if text != good {
            let judged = tokens.judge(None, &text, NOW);
            assert!(
                !matches!(judged, Judgement::Admitted(_)),
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
    }
}

#[test]
fn keys_that_cannot_be_used_are_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let read = |text: &[u8], how: fn(&std::path::Path) -> Result<Keys, FileError>| {
        std::fs::write(&path, text).unwrap();
        how(&path).unwrap_err().to_string()
    };
    for (text, said) in [
        (&b""[..], "it must be JSON, or PEM with a block -----BEGIN PUBLIC KEY-----"),
        (b"sesame", "it must be JSON, or PEM"),
        (b"\x30\x82\x01\xff", "it must be PEM or JSON"),
        (b"{}", "of number 1: \"missing field `kty`"),
        (b"{\"keys\":[]}", "it has no keys"),
        (b"{\"keys\":7}", "its `keys` is no list"),
        (b"{\"kty\":\"oct\",\"k\":\"AAAA\"}", "a secret of fewer than 32 bytes"),
        (b"{\"kty\":\"RSA\",\"n\":\"AAAA\",\"e\":\"AQAB\"}", "an RSA key of 0 bits"),
        (b"{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}", "no point"),
        (b"{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AAAA\",\"y\":\"AAAA\"}", "the kind \"EC\""),
        (b"{\"kty\":\"RSA\",\"use\":\"enc\"}", "it is not for signatures"),
        (b"{\"kty\":\"RSA\",\"alg\":\"RSA-OAEP\"}", "`alg` is \"RSA-OAEP\""),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-pubout"),
    ] {
        let error = read(text, Keys::read);
        let text = String::from_utf8_lossy(text);
        let said = if said == "no point" { "its point is not of P-256" } else { said };
        assert!(error.contains(said), "{text}: {error}");
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
    }
    assert!(read(b"short\n", Keys::read_secret).contains("a secret of 5 bytes can be guessed"));
    let public = Keys::of_json(KEYS, false).unwrap();
    assert_eq!((public.len(), keys().len()), (4, 5));
    let wrong = KEYS.replace(r#""kid": "e""#, r#""kid": "e", "alg": "HS256""#);
    assert_eq!(Keys::of_json(&wrong, true).unwrap().len(), 4);
}

#[test]
fn a_secret_ends_before_its_line_feed_and_is_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let set: Value = serde_json::from_str(KEYS).unwrap();
    let secret = jws::decode(set["keys"][4]["k"].as_str().unwrap().as_bytes()).unwrap();
    for end in [&b""[..], b"\n", b"\r\n"] {
        std::fs::write(&path, [&secret, end].concat()).unwrap();
        let keys = Keys::read_secret(&path).unwrap();
        assert!(!format!("{keys:?}").contains(&String::from_utf8(secret.clone()).unwrap()));
        assert_eq!(judge(&with(Options::default(), keys), token("HS512")), Ok("ali".into()));
    }
}

#[test]
fn keys_come_from_one_source() {
    let file = || Some("f".into());
    let url = || Some("https://a/".into());
    let check = |options: Options| options.check();
    assert!(check(Options::default()).is_err());
    assert!(check(Options { key_file: file(), ..Options::default() }).is_ok());
    assert!(check(Options { keys_url: url(), authorities: file(), ..Options::default() }).is_ok());
    assert!(
        check(Options { key_file: file(), secret_file: file(), ..Options::default() }).is_err()
    );
    assert!(check(Options { key_file: file(), keys_url: url(), ..Options::default() }).is_err());
    assert!(
        check(Options { key_file: file(), authorities: file(), ..Options::default() }).is_err()
    );
    let options = Options { leeway: Duration::ZERO, ..Options::default() };
    assert!(!options.has_rules());
}
