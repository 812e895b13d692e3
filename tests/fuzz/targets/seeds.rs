//! Inputs and words to begin with, made from what the broker's tests and tables hold already.

#[path = "../../codec/corpus.rs"]
mod packets;

use whimbrel::codec::Version;
use whimbrel::config::mosquitto::options::OPTIONS;
use whimbrel::config::settings::{GLOBAL, LISTENER};
use whimbrel::message::{Message, Parts};

/// Inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "codec" => codec(),
        "topic" => topic(),
        "websocket" => websocket(),
        "proxy" => proxy(),
        "config" => config(),
        "store" => store(),
        "import" => import(),
        "token" => token(),
        _ => vec![],
    }
}

/// Words that inputs of a target are made of.
pub fn words(target: &str) -> Vec<&'static [u8]> {
    match target {
        "topic" => vec![b"$SYS", b"$share/", b"/+", b"/#", b"\ns", b"\nu", b"\np", b"\nr", b"\nl"],
        "websocket" => vec![
            b"GET /mqtt HTTP/1.1\r\n",
            b"Sec-WebSocket-Protocol: mqttv3.1\r\n",
            b"Sec-WebSocket-Version: 13\r\n",
            b"Connection: Upgrade\r\n",
        ],
        "proxy" => {
            vec![b"PROXY ", b"UNKNOWN", b"TCP4 ", b"TCP6 ", b"\r\n", b"\r\n\r\n\0\r\nQUIT\n"]
        }
        "token" => vec![
            b"{\"alg\":\"ES256\"}.",
            b"\"crit\":[]",
            b"\"kid\":\"k\"",
            b"\"exp\":1800000001",
            b"\"nbf\":",
            b"\"aud\":\"mqtt\"",
            b"\"sub\":\"ali\"",
            b"\"may\":{\"pub\":[\"a/+\"]}",
            b"-----BEGIN PUBLIC KEY-----\n",
            b"\"kty\":\"oct\",\"k\":\"",
        ],
        "config" => {
            let keys = GLOBAL.iter().map(|setting| setting.key);
            let keys = keys.chain(LISTENER.iter().map(|setting| setting.key));
            let keys = keys.chain(OPTIONS.iter().map(|option| option.name));
            keys.map(str::as_bytes).chain([&b"[[listener]]\n"[..], b"true", b" = "]).collect()
        }
        _ => vec![],
    }
}

fn codec() -> Vec<Vec<u8>> {
    let number = |version: Version| match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
    };
    let packets = packets::legal().into_iter().chain(packets::illegal());
    packets.map(|(_, version, bytes)| [&[number(version)], &bytes[..]].concat()).collect()
}

fn topic() -> Vec<Vec<u8>> {
    let text: &[u8] =
        b"sa/+\nsa/#\ns#\nsa/b\ns$SYS/+\npa/b\npa\np$SYS/x\nra/b\nra\nra-b\nla/#\nl+/b\n\
        ua/+\npa/b\nda/b\nl#\ns$share/g/a\npa";
    vec![text.to_vec()]
}

fn websocket() -> Vec<Vec<u8>> {
    let request: &[u8] = b"\0\x20GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    let masked: &[u8] = b"\x01\x40\x82\x82\0\0\0\0\xC0\0\x89\x80\0\0\0\0\x88\x80\0\0\0\0";
    let content: &[u8] = b"\x03\x05\x01\x03abc\0\x02de\x06\x01p\x01\x01f\x07\0";
    let long = |kind: u8, len: u8| [&[kind, len][..], &vec![kind; usize::from(len)]].concat();
    let fragments = [vec![3, 0], long(0, 255), long(6, 130), long(2, 200), long(1, 126)].concat();
    vec![request.to_vec(), masked.to_vec(), content.to_vec(), fragments]
}

fn proxy() -> Vec<Vec<u8>> {
    let signature: &[u8] = b"\x01\r\n\r\n\0\r\nQUIT\n";
    let binary = |rest: &[u8]| [signature, rest].concat();
    vec![
        b"\0PROXY TCP4 192.0.2.1 10.0.0.1 56324 1883\r\n\x10\x0c".to_vec(),
        b"\0PROXY TCP6 2001:db8::1 ::1 5 1883\r\n".to_vec(),
        b"\0PROXY UNKNOWN\r\n".to_vec(),
        binary(b"\x21\x11\0\x0C\xC0\0\x02\x01\x0A\0\0\x01\xDC\x04\x07\x5B\x10"),
        binary(&[&b"\x21\x21\0\x24"[..], &[7; 36]].concat()),
        binary(&[&b"\x21\x31\0\xD8"[..], &[b'/'; 216]].concat()),
        binary(b"\x20\0\0\0"),
    ]
}

/// Every setting with its default, where that is a value.
fn config() -> Vec<Vec<u8>> {
    let line = |key: &str, default: &str| {
        let line = format!("{key} = {default}\n");
        if toml::from_str::<toml::Table>(&line).is_ok() { line } else { String::new() }
    };
    let global: String = GLOBAL.iter().map(|setting| line(setting.key, setting.default)).collect();
    let listener: String =
        LISTENER.iter().map(|setting| line(setting.key, setting.default)).collect();
    let tls = "certfile = \"c.pem\"\nkeyfile = \"k.pem\"\ncafile = \"ca.pem\"\n";
    vec![
        global.clone().into_bytes(),
        format!("{global}[[listener]]\nport = 1\n[[listener]]\nport = 2\n{listener}").into_bytes(),
        format!("[[listener]]\nport = 1\n{tls}bind_address = \"::1\"\n").into_bytes(),
        b"[[listener]]\nsocket = \"s\"\nprotocol = \"websockets\"\nwebsocket_path = \"/x\""
            .to_vec(),
        b"[[listener]]\nport = 1\nenable_proxy_protocol = 1\nproxy_protocol_from = []\n".to_vec(),
        b"# x\nper_listener_settings true\nport 1\nlistener 2 ::1\nmax_connections -1\n\
        allow_anonymous true\nlistener 0 s\nprotocol websockets\nmount_point m/\nlog_type all\n\
        log_dest file l\npersistence true\npersistent_client_expiration 2w\n"
            .to_vec(),
        OPTIONS.iter().map(|option| format!("{} 1\n", option.name)).collect::<String>().into(),
    ]
}

fn store() -> Vec<Vec<u8>> {
    use whimbrel::clock::Moment;
    use whimbrel::codec::{Properties, QoS};
    use whimbrel::session::record::Record;
    use whimbrel::session::will::Will;
    use whimbrel::store::{SessionId, Target, row};

    let parts = Parts {
        topic: "a/b",
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: Moment::from_unix_ms(1 << 40),
        properties: Properties::check_forwarded(b"\x03\0\x01t\x26\0\x01k\0\x01v").expect("good"),
        payload: b"payload",
    };
    let message = Message::new(7, &parts);
    let mut body = vec![];
    message.encode(&mut body);
    let target = |ids: &[u32]| Target {
        expires_s: 0,
        session: SessionId(3),
        flags: 5,
        online: false,
        subscription_ids: Some(triomphe::ThinArc::from_header_and_slice((), ids)),
    };
    let targets = [target(&[1, 2]), target(&[9])];
    let mut segment = vec![];
    for id in 1..3 {
        row::put_record(&mut segment, id, targets.iter(), |out| out.extend_from_slice(&body));
    }
    let record = Record {
        client_id: "client".into(),
        owner: Some("ali".into()),
        expiry_s: 60,
        disconnected_at: Some(Moment::from_unix_ms(1 << 40)),
        seen_to: 7,
        will: Will::decode(&[&b"\x05\0\0\0\x09\0\0\0"[..], &body].concat()).map(Box::new),
    };
    let rows: [&[u8]; 8] = [
        &segment,
        b"\x01\0\0\0\0\0\0\0\x03\0\0\0",
        b"\x01\0\x02\0",
        b"\x01\0\x02\0\0\0\0\0\0\0\x03\0\0\0",
        &row::put_retained(&message, 9),
        &record.encode(),
        b"\x2D\x09\0\0\0",
        &body,
    ];
    rows.iter().zip(0..).map(|(row, choice)| [&[choice], *row].concat()).collect()
}

/// A file with a chunk of each kind, of each version.
fn import() -> Vec<Vec<u8>> {
    let chunk = |kind: u8, body: &[u8]| {
        [&[0, 0, 0, kind, 0, 0, 0, u8::try_from(body.len()).expect("short")], body].concat()
    };
    let properties = b"\x07\x03\0\x01t\x01\x01\0";
    let message = |number: u8, qos: u8| {
        let numbers = [&[number][..], &[0; 15], b"\0\0\0\x01\0\x05\0\x01\0\x01\0\x03\x07\x5B"];
        let head = [&numbers.concat()[..], &[qos, 1], b"guta/p"].concat();
        chunk(2, &[&head[..], &properties[..7]].concat())
    };
    let delivery = |number: u8, exchange: [u8; 4]| {
        let numbers = [&[number][..], &[0; 7], &[0, number, 0, 1]].concat();
        chunk(3, &[&numbers[..], &exchange, b"c", b"\x02\x0B\x07"].concat())
    };
    let file = |version: u8| {
        let client: &[u8] = match version {
            5 => b"\0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\0\x09\0\x01c",
            _ => b"\0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\0\x09\0\x01\x07\x5B\0\x01\0\0\0\0cu",
        };
        [
            b"\0\xB5\0mosquitto db\0\0\0\0\0\0\0".to_vec(),
            vec![version],
            chunk(1, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0, 0]),
            message(1, 1),
            message(2, 2),
            chunk(6, client),
            delivery(2, [2, 5, 1, 1]),
            delivery(1, [1, 3, 0x11, 1]),
            delivery(2, [2, 7, 0, 0]),
            delivery(3, [2, 9, 0, 1]),
            chunk(5, b"\0\0\0\x07\0\x01\0\x03\x01\x08\0\0ca/+"),
            chunk(4, &[1, 0, 0, 0, 0, 0, 0, 0]),
            chunk(9, b"x"),
        ]
        .concat()
    };
    vec![file(5), file(6)]
}

/// Tokens before they are put into base64, and keys.
fn token() -> Vec<Vec<u8>> {
    let header = r#"{"alg":"HS256","kid":"k"}"#;
    let claims =
        r#"{"sub":"ali","exp":1800000001,"aud":["mqtt"],"roles":"a b","may":{"pub":"x/%u"}}"#;
    let text = |first: char, rest: &str| format!("{first}{rest}").into_bytes();
    vec![
        text('t', &format!("{header}.{claims}.12345678901234567890123456789012")),
        text('t', r#"{"alg":"none"}.{}."#),
        text('r', "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"),
        text('k', r#"{"kty":"oct","k":"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"}"#),
        text(
            'k',
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"EC","crv":"P-256"}]}"#,
        ),
        text('k', r#"{"kty":"RSA","n":"AQAB","e":"AQAB","use":"sig","alg":"RS256","kid":"r"}"#),
    ]
}
