//! The runner itself: that it understands what is written, and that what is wrong fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use bytes::BytesMut;
use rmqtt_codec::v5;
use tokio_util::codec::Decoder;

use crate::decode::decode;
use crate::dialogue::{Action, Expected, Sent, Step, header, steps};
use crate::encode::encode;
use crate::expect::{Variables, compare, filled};
use crate::packet::{Packet, Version};
use crate::play::{Failure, play};
use crate::second::agrees;

/// Steps after a header of this version.
fn read(version: Version, lines: &str) -> Result<Vec<Step>, (usize, String)> {
    let text = format!("# A sentence\nversion {version}\nshows {version}:1.1\n{lines}");
    steps(&text, version, "T").map_err(|mistake| (mistake.line, mistake.what))
}

/// The bytes of a packet that is sent.
fn bytes(version: Version, line: &str) -> Vec<u8> {
    let steps = read(version, &format!("a> {line}\na< closed")).unwrap();
    let Action::Send(_, Sent::Packet(template)) = &steps[0].action else { panic!("{line}") };
    encode(&filled(template, &Variables::new()).unwrap(), version)
}

/// Whether an expectation fits these bytes.
fn fits(version: Version, line: &str, bytes: &[u8]) -> Result<(), String> {
    let steps = read(version, &format!("a< {line}")).unwrap();
    let Action::Expect(_, Expected::Packet { template, .. }) = &steps[0].action else {
        panic!("{line}")
    };
    compare(template, &decode(bytes, version)?, version, &mut Variables::new())
}

/// A broker that says this to whatever comes, and closes at the end of its input.
fn says(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut input = [0; 1000];
                let _ = stream.read(&mut input);
                stream.write_all(bytes).unwrap();
                while stream.read(&mut input).is_ok_and(|len| len > 0) {}
            });
        }
    });
    address
}

fn played(said: &'static [u8], lines: &str) -> Result<(), Failure> {
    play(says(said), Version::V311, &read(Version::V311, lines).unwrap())
}

#[test]
fn packets_are_written_as_the_standard_shows_them() {
    let v4 = |line| bytes(Version::V311, line);
    assert_eq!(v4("CONNECT client=x"), b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01x");
    assert_eq!(v4("CONNECT"), b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02Ta");
    assert_eq!(v4("PUBLISH topic=a/b payload=hi"), b"\x30\x07\0\x03a/bhi");
    assert_eq!(v4("PUBLISH qos=1 dup=1 id=7 topic=a"), b"\x3a\x05\0\x01a\0\x07");
    assert_eq!(v4("SUBSCRIBE id=1 filter=a qos=1 filter=b"), b"\x82\x0a\0\x01\0\x01a\x01\0\x01b\0");
    assert_eq!(v4("UNSUBSCRIBE id=1 filter=a"), b"\xa2\x05\0\x01\0\x01a");
    assert_eq!(v4("PUBREL id=2"), b"\x62\x02\0\x02");
    assert_eq!(v4("PUBREL id=2 flags=0"), b"\x60\x02\0\x02");
    assert_eq!(v4("PINGREQ"), b"\xc0\0");
    assert_eq!(v4("DISCONNECT"), b"\xe0\0");
    let v31 = bytes(Version::V31, "CONNECT client=x clean=0 keepalive=9");
    assert_eq!(v31, b"\x10\x0f\0\x06MQIsdp\x03\0\0\x09\0\x01x");
    let v5 = |line| bytes(Version::V5, line);
    assert_eq!(v5("PUBACK id=2"), b"\x40\x02\0\x02");
    assert_eq!(v5("PUBACK id=2 reason=0x10"), b"\x40\x03\0\x02\x10");
    assert_eq!(v5("DISCONNECT reason=4 session_expiry=1"), b"\xe0\x07\x04\x05\x11\0\0\0\x01");
    assert_eq!(
        v5("SUBSCRIBE id=1 subscription_id=200 filter=a qos=2 no_local=1 retain_handling=2"),
        b"\x82\x0a\0\x01\x03\x0b\xc8\x01\0\x01a\x26"
    );
    assert_eq!(
        v5(r#"PUBLISH topic="\xef\xbb\xbf|" payload=fill:3"#),
        b"\x30\x0a\0\x04\xef\xbb\xbf|\0xxx"
    );
}

/// Every property of CONNECT, of a Will and of PUBLISH, read by another codec.
#[test]
fn another_codec_reads_what_is_written() {
    let connect = bytes(
        Version::V5,
        "CONNECT client=c keepalive=5 session_expiry=1 receive_maximum=2 maximum_packet_size=3 \
         topic_alias_maximum=4 request_response_information=1 request_problem_information=0 \
         user_property=k:v authentication_method=m authentication_data=d user=u password=p \
         will.topic=t will.payload=w will.qos=2 will.retain=1 will.will_delay=6 \
         will.payload_format=1 will.message_expiry=7 will.content_type=y \
         will.response_topic=r will.correlation_data=z will.user_property=a:b",
    );
    let decode = |bytes: &[u8]| {
        let mut stream = BytesMut::from(bytes);
        v5::Codec::new(0, 0).decode(&mut stream).unwrap().unwrap().0
    };
    let v5::Packet::Connect(read) = decode(&connect) else { panic!() };
    assert_eq!((&*read.client_id, read.keep_alive, read.clean_start), ("c", 5, true));
    assert_eq!((read.session_expiry_interval_secs, read.topic_alias_max), (1, 4));
    assert_eq!(read.receive_max.map(u16::from), Some(2));
    assert_eq!(read.max_packet_size.map(u32::from), Some(3));
    assert_eq!((read.request_response_info, read.request_problem_info), (true, false));
    assert_eq!(read.user_properties, [("k".into(), "v".into())]);
    assert_eq!(read.auth_method.as_deref(), Some("m"));
    assert_eq!(read.auth_data.as_deref(), Some(&b"d"[..]));
    assert_eq!(read.username.as_deref(), Some("u"));
    assert_eq!(read.password.as_deref(), Some(&b"p"[..]));
    let will = read.last_will.unwrap();
    assert_eq!((&*will.topic, &will.message[..]), ("t", &b"w"[..]));
    assert_eq!((will.qos.value(), will.retain), (2, true));
    assert_eq!(will.will_delay_interval_sec, Some(6));
    assert_eq!(will.message_expiry_interval.map(u32::from), Some(7));
    assert_eq!(will.content_type.as_deref(), Some("y"));
    assert_eq!(will.response_topic.as_deref(), Some("r"));
    assert_eq!(will.correlation_data.as_deref(), Some(&b"z"[..]));
    assert_eq!(will.is_utf8_payload, Some(true));
    assert_eq!(will.user_properties, [("a".into(), "b".into())]);

    let publish = bytes(
        Version::V5,
        "PUBLISH qos=1 id=9 topic=t retain=1 payload_format=1 message_expiry=2 content_type=c \
         response_topic=r correlation_data=d subscription_id=1 subscription_id=300 \
         topic_alias=4 user_property=k:v user_property=k:w payload=p",
    );
    // A Server sends PUBLISH too, so it is read both ways.
    let ours = crate::decode::decode(&publish, Version::V5).unwrap();
    agrees(&publish, Version::V5, &ours).unwrap();
    assert_eq!(ours.fields.len(), 16);

    let subscribe = bytes(
        Version::V5,
        "SUBSCRIBE id=3 subscription_id=5 filter=a qos=1 no_local=1 filter=b qos=2 \
         retain_as_published=1 retain_handling=1",
    );
    let v5::Packet::Subscribe(read) = decode(&subscribe) else { panic!() };
    assert_eq!((read.packet_id.get(), read.id.map(u32::from)), (3, Some(5)));
    let (first, options) = &read.topic_filters[0];
    assert_eq!((&**first, options.qos.value(), options.no_local), ("a", 1, true));
    let (second, options) = &read.topic_filters[1];
    assert_eq!((&**second, options.qos.value(), options.retain_as_published), ("b", 2, true));
    assert_eq!(u8::from(options.retain_handling), 1);
}

#[test]
fn a_misreading_is_found_by_the_other_codec() {
    for version in [Version::V311, Version::V5] {
        let publish = bytes(version, "PUBLISH qos=1 id=9 topic=t payload=p");
        let ours = decode(&publish, version).unwrap();
        agrees(&publish, version, &ours).unwrap();
        let mut wrong = Packet::new("PUBLISH");
        wrong.fields = ours.fields.clone();
        wrong.fields.retain(|(key, _)| key != "id");
        wrong.number("id", 10_u64);
        agrees(&publish, version, &wrong).unwrap_err();
    }
}

#[test]
fn what_a_server_must_not_send_is_not_read() {
    for (version, packet, what) in [
        (Version::V311, &b"\x20\x02\x02\x00"[..], "flags of CONNACK"),
        (Version::V311, b"\x20\x02\x01\x05", "Session is present"),
        (Version::V311, b"\x20\x02\x00\x06", "may not carry"),
        (Version::V31, b"\x20\x02\x01\x00", "flags of CONNACK"),
        (Version::V311, b"\x36\x05\0\x01a\0\x01", "flags of PUBLISH"),
        (Version::V311, b"\x38\x03\0\x01a", "flags of PUBLISH"),
        (Version::V311, b"\x32\x05\0\x01a\0\0", "Identifier is 0"),
        (Version::V311, b"\x30\x03\0\x01#", "wildcard"),
        (Version::V311, b"\x30\x03\0\x01\xff", "ill-formed"),
        (Version::V311, b"\x60\x02\0\x01", "flags of PUBREL"),
        (Version::V311, b"\x40\x03\0\x01\0", "bytes too many"),
        (Version::V311, b"\x40\x01\0", "ends too early"),
        (Version::V311, b"\xe0\0", "does not send DISCONNECT"),
        (Version::V311, b"\xc0\0", "does not send PINGREQ"),
        (Version::V5, b"\xe0\x01\x04", "may not carry"),
        (Version::V5, b"\xe0\x07\0\x05\x11\0\0\0\x01", "may not send session_expiry"),
        (Version::V5, b"\x20\x09\0\0\x06\x21\0\x01\x21\0\x01", "comes twice"),
        (Version::V5, b"\x30\x03\0\0\0", "neither Topic Name"),
    ] {
        let refused = decode(packet, version).unwrap_err();
        assert!(refused.contains(what), "{packet:02x?}: {refused}");
    }
}

#[test]
fn an_expectation_fits_what_it_says_and_nothing_else() {
    let publish = b"\x33\x07\0\x01a\0\x07hi";
    let v4 = |line| fits(Version::V311, line, publish);
    for line in [
        "PUBLISH qos=1 retain=1 topic=a id=7 payload=hi",
        "PUBLISH qos=1 retain=? topic=* id=* payload=*",
        "PUBLISH qos=1|2 retain=1 topic=!b id=!8 payload=ho|hi",
        "PUBLISH qos=1 retain=1 topic=a id=!8|!9 payload=hi",
    ] {
        v4(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in [
        "PUBLISH qos=2 retain=1 topic=a id=7 payload=hi",
        "PUBLISH qos=1 topic=a id=7 payload=hi",
        "PUBLISH qos=1 retain=1 topic=a payload=hi",
        "PUBLISH qos=1 retain=1 topic=a id=7",
        "PUBLISH qos=1 retain=1 topic=b id=7 payload=hi",
        "PUBLISH qos=1 retain=1 topic=a id=!7 payload=hi",
        "PUBLISH qos=1 retain=1 topic=a id=!7|!8 payload=hi",
        "PUBLISH qos=1 retain=1 topic=a id=8|9 payload=hi",
        "PUBLISH qos=1 retain=1 topic=a !id payload=hi",
        "PUBACK id=7",
    ] {
        v4(line).expect_err(line);
    }
    let v5 = |line, bytes| fits(Version::V5, line, bytes);
    // topic_alias_maximum 3 in CONNACK; a Server may say more than was expected.
    let connack = b"\x20\x06\0\0\x03\x22\0\x03";
    for line in ["CONNACK", "CONNACK topic_alias_maximum=3 only", "CONNACK !receive_maximum"] {
        v5(line, connack).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    for line in ["CONNACK only", "CONNACK topic_alias_maximum=4", "CONNACK !topic_alias_maximum"] {
        v5(line, connack).expect_err(line);
    }
    v5("CONNACK session=1", connack).unwrap_err();
    v5("CONNACK reason=error", connack).unwrap_err();
    // In PUBLISH it may not.
    let publish = b"\x30\x08\0\x01a\x04\x0b\x02\x0b\x01";
    v5("PUBLISH topic=a subscription_id=1 subscription_id=2", publish).unwrap();
    v5("PUBLISH topic=a", publish).unwrap_err();
    v5("PUBLISH topic=a subscription_id=1", publish).unwrap_err();
    v5("PUBLISH topic=a subscription_id=1 subscription_id=1", publish).unwrap_err();
    v5("SUBACK id=1 reason=0 reason=error", b"\x90\x05\0\x01\0\0\x87").unwrap();
    v5("SUBACK id=1 reason=error reason=0", b"\x90\x05\0\x01\0\0\x87").unwrap_err();
    v5("SUBACK id=1", b"\x90\x04\0\x01\0\0").unwrap_err();
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (lines, line, what) in [
        ("a< CONNAK", 4, "CONNAK is neither"),
        ("a< CONNACK\na< CONNACK colour=1", 5, "CONNACK has no colour"),
        ("a< CONNACK\na> PUBLISH topic=a qos=9999", 5, "qos is a number"),
        ("a< CONNACK\na> PUBLISH topic=a topic=b", 5, "topic stands twice"),
        ("a< CONNACK\na> PUBLISH topic=*", 5, "needs one value"),
        ("a< CONNACK\na> CONNECT session_expiry=1", 5, "MQTT 3.1.1 has no session_expiry"),
        ("a< PUBLISH id=<m>", 4, "used once only"),
        ("a< CONNACK\nany order\na< CONNACK", 5, "no `end`"),
        ("any order\na< closed\nend", 5, "only packets"),
        ("for x in 1 2\na< CONNACK", 4, "no `end`"),
        ("a> hex 123", 4, "is not hexadecimal"),
        ("a> hex", 4, "no bytes"),
        ("A> PINGREQ", 4, "no name"),
        ("hello", 4, "no step"),
        ("wait 3", 4, "no time"),
        (r#"a> PUBLISH topic="a"#, 4, "quote"),
        ("@4 a< CONNACK", 4, "4 is no version"),
        ("a> PINGREQ", 1, "nothing is expected"),
    ] {
        let (at, mistake) = read(Version::V311, lines).unwrap_err();
        assert!(at == line && mistake.contains(what), "{lines}: {at}: {mistake}");
    }
    for (text, line, what) in [
        ("version 5\nshows 5:1.1", 1, "# sentence"),
        ("# a\nshows 5:1.1", 1, "`version`"),
        ("# a\nversion 5", 1, "`shows`"),
        ("# a\nversion 4", 2, "no version"),
        ("# a\nversion 5\nshows MQTT-1.1-1", 3, "no version before"),
        ("# a\nversion 5\nshows 5:MQTT-x", 3, "neither"),
    ] {
        let mistake = header(text).unwrap_err();
        assert!(mistake.line == line && mistake.what.contains(what), "{text}: {mistake:?}");
    }
}

#[test]
fn loops_are_written_out_and_versions_have_their_lines() {
    let lines = "for n in 1..3 \"b c\"\na> PUBLISH topic={t} payload=\"{n}\"\nend\n\
                 @5 a> PINGREQ\n@3.1,3.1.1 a< closed";
    let steps = read(Version::V311, lines).unwrap();
    let texts: Vec<&str> = steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(texts[0], "a> PUBLISH topic=T payload=\"1\"");
    assert_eq!(texts[3..], ["a> PUBLISH topic=T payload=\"b c\"", "@3.1,3.1.1 a< closed"]);
    assert_eq!((steps[3].line, steps[3].with.as_str()), (5, " n=b c"));
    let nested = "for a in 1 2\nfor b in x {a}\na< PUBLISH topic={a}{b}\nend\nend";
    let with = read(Version::V311, nested).unwrap();
    let with: Vec<&str> = with.iter().map(|step| step.with.as_str()).collect();
    assert_eq!(with, [" a=1 b=x", " a=1 b=1", " a=2 b=x", " a=2 b=2"]);
}

#[test]
fn a_dialogue_that_goes_otherwise_fails_where_it_does() {
    const SAID: &[u8] = b"\x20\x02\0\0\x32\x06\0\x01a\0\x07h\xd0\0";
    let good =
        "a> CONNECT\na< CONNACK\na< PUBLISH qos=1 topic=a id=<m> payload=h\na> PUBACK id=<m>";
    played(SAID, good).unwrap();
    played(SAID, "a> CONNECT\nany order\na< PUBLISH qos=1 topic=a id=* payload=h\na< CONNACK\nend")
        .unwrap();
    played(SAID, "a> CONNECT\na< SUBACK?\na< CONNACK?\na< hex 32 06 s\"a\" 0007 68").unwrap();
    played(SAID, "a> CONNECT\na< CONNACK\na> close").unwrap();
    for (lines, line, what) in [
        ("a> CONNECT\na< CONNACK reason=1", 5, "reason is expected to be 1, 0 came"),
        ("a> CONNECT\na< PUBACK id=1", 5, "another packet"),
        ("a> CONNECT\na< closed", 5, "came      CONNACK"),
        ("a> CONNECT\na< CONNACK\na< nothing", 6, "nothing but a PINGRESP"),
        ("a> CONNECT\na< CONNACK", 0, "nothing but a PINGRESP"),
        ("a> CONNECT\na< CONNACK? reason=2", 5, "reason is expected"),
        ("a> CONNECT\na< hex 20 02 00 01", 5, "expected  20 02 00 01"),
        ("a> CONNECT\nany order\na< CONNACK\na< PUBACK id=7\nend", 5, "line 7"),
        ("a> CONNECT\na< CONNACK\nwithin 0.1s a< closed", 6, "came      PUBLISH"),
        ("b> PINGREQ\na< CONNACK", 5, "a is not open"),
        ("a> CONNECT\na> PUBACK id=<m>\na< PUBLISH id=<m>", 5, "<m> has no value yet"),
        ("a> CONNECT\na< CONNACK\na> open", 6, "open already"),
    ] {
        let failure = played(SAID, lines).expect_err(lines);
        assert!(failure.line == line && failure.what.contains(what), "{lines}: {failure:?}");
        let shown = failure.explained("file.txt", Version::V311);
        assert!(shown.contains("file.txt") && shown.contains(what), "{shown}");
    }
    let silent = "a> PINGREQ\na< PINGRESP\nwithin 0.1s a< CONNACK";
    let failure = played(b"\xd0\0\x20\x02", silent).unwrap_err();
    assert!(failure.what.contains("the beginning of a packet only  [20 02]"), "{failure:?}");
}

#[test]
fn exactly_one_of_two_connections_may_get_a_packet() {
    const SAID: &[u8] = b"\x20\x02\0\0\xd0\0";
    let both = "a> CONNECT\na< CONNACK\nb> CONNECT\nb< CONNACK\na|b< PINGRESP\n";
    played(SAID, &format!("{both}other< PINGRESP\none> close\nother> close")).unwrap();
    played(SAID, &format!("{both}other> close\nwithin 0.1s one< PINGRESP")).unwrap_err();
    played(SAID, "a> CONNECT\na< CONNACK\nb> CONNECT\nb< CONNACK\nwithin 0.1s a|b< PUBACK id=1")
        .unwrap_err();
}

#[test]
fn a_name_keeps_the_value_it_was_given() {
    const SAID: &[u8] = b"\x40\x02\0\x07\x40\x02\0\x07\x40\x02\0\x08";
    let lines = "a> PINGREQ\na< PUBACK id=<m>\na< PUBACK id=<m>\n";
    played(SAID, &format!("{lines}a< PUBACK id=!<m>")).unwrap();
    played(SAID, &format!("{lines}a< PUBACK id=<m>")).unwrap_err();
    played(SAID, "a> PINGREQ\na< PUBACK id=<m>\na< PUBACK id=!<m>").unwrap_err();
}

/// Each broker says one thing wrong that no single packet shows.
#[test]
fn a_connection_as_a_whole_keeps_to_its_rules() {
    let played = |said: &'static [u8], lines: &str| {
        play(says(said), Version::V5, &read(Version::V5, lines).unwrap())
    };
    let connect = "a> CONNECT receive_maximum=1 topic_alias_maximum=1\n";
    let publish = "a< PUBLISH qos=1 id=* topic=a\n";
    for (said, lines, what) in [
        (&b"\x32\x06\0\x01a\0\x07\0\x32\x06\0\x01a\0\x08\0"[..], publish, "Receive Maximum"),
        (b"\x32\x06\0\x01a\0\x07\0\x32\x06\0\x01a\0\x07\0", publish, "7 is in use"),
        (b"\x62\x02\0\x07\x32\x06\0\x01a\0\x07\0", "a< PUBREL id=7\n", "7 is in use"),
        (b"\x30\x07\0\x01a\x03\x23\0\x02", "", "Topic Alias 2 is not allowed"),
        (b"\x30\x06\0\0\x03\x23\0\x01", "", "Topic Alias 1 was never set"),
    ] {
        let lines = format!("{connect}{lines}a< PUBLISH qos=? id=? topic=? topic_alias=?");
        let failure = played(said, &lines).unwrap_err();
        assert!(failure.what.contains(what), "{what}: {failure:?}");
    }
    let aliases = b"\x30\x07\0\x01a\x03\x23\0\x01\x30\x06\0\0\x03\x23\0\x01\xd0\0";
    let lines = "a< PUBLISH topic=a topic_alias=1\na< PUBLISH topic=a topic_alias=1";
    played(aliases, &format!("{connect}{lines}")).unwrap();
    // What is answered makes room, and is free again.
    let twice = b"\x32\x06\0\x01a\0\x07\0\x32\x06\0\x01a\0\x07\0\xd0\0";
    let lines = "a< PUBLISH qos=1 id=7 topic=a\na> PUBACK id=7\na< PUBLISH qos=1 id=7 topic=a";
    played(twice, &format!("{connect}{lines}")).unwrap();
}

#[test]
fn what_may_come_in_any_order_may_also_stay_away() {
    const SAID: &[u8] = b"\x40\x02\0\x07\xd0\0";
    let block = |lines| format!("a> PINGREQ\nany order\n{lines}\na< PINGRESP\nend");
    played(SAID, &block("a< PUBACK? id=7\na< PUBACK? id=8")).unwrap();
    played(SAID, &block("a< PUBACK? id=8")).unwrap_err();
    played(SAID, &block("a< PUBACK id=7\na< PUBACK id=8")).unwrap_err();
}

#[test]
fn a_text_may_be_filled_up_to_a_length() {
    assert_eq!(bytes(Version::V311, "PUBLISH topic=fill:5:{t}/"), b"\x30\x07\0\x05T/xxx");
}
