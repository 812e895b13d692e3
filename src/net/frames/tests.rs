//! The frames by themselves, and against tungstenite on the other side.

use super::*;
use proptest::prelude::*;
use std::io::{self, Read, Write};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message};

const FRAME_BYTES_MAX: usize = 1 << 20;

/// A frame of a client: the first byte is given, the length is written in the fewest bytes.
fn frame(first: u8, payload: &[u8], mask: u32) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0xFE);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0xFF);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    let mask = mask.to_be_bytes();
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What the bytes carry, the last ping, and the end, when they come in pieces of these lengths,
/// over and over.
fn decode(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Option<Vec<u8>>, Option<End>) {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let (mut carried, mut rest) = (vec![], bytes);
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
        let mut piece = piece.to_vec();
        let len = decoder.decode(&mut piece);
        carried.extend_from_slice(&piece[..len]);
        rest = after;
    }
    (carried, decoder.take_ping(), decoder.end())
}

fn end_of(bytes: &[u8]) -> Option<End> {
    let end = decode(bytes, &[bytes.len()]).2;
    assert_eq!(decode(bytes, &[1]).2, end, "byte by byte");
    end
}

#[test]
fn what_rfc_6455_forbids_is_a_violation_with_a_status_code() {
    use Violation::*;
    let first = frame(0x02, b"", 7);
    let length = |bytes: &[u8]| [&[0x82][..], bytes, &[0; 4]].concat();
    for (bytes, violation, code) in [
        (vec![0x82, 0], Unmasked, 1002),
        (vec![0x88, 0], Unmasked, 1002),
        (vec![0xC2], ReservedBits, 1002),
        (vec![0xA2], ReservedBits, 1002),
        (vec![0x92], ReservedBits, 1002),
        (vec![0x83], ReservedOpcode, 1002),
        (vec![0x87], ReservedOpcode, 1002),
        (vec![0x8B], ReservedOpcode, 1002),
        (vec![0x8F], ReservedOpcode, 1002),
        (vec![0x81], Text, 1003),
        (vec![0x01], Text, 1003),
        (vec![0x80], NothingToContinue, 1002),
        ([&frame(0x82, b"", 7)[..], &[0x00]].concat(), NothingToContinue, 1002),
        ([&first[..], &[0x82]].concat(), MessageWithinMessage, 1002),
        ([&first[..], &[0x02]].concat(), MessageWithinMessage, 1002),
        (vec![0x08], FragmentedControl, 1002),
        (vec![0x09], FragmentedControl, 1002),
        (vec![0x0A], FragmentedControl, 1002),
        (vec![0x89, 0xFE], LongControl, 1002),
        (vec![0x88, 0xFF], LongControl, 1002),
        (length(&[0xFE, 0, 125]), Length, 1002),
        (length(&[0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), Length, 1002),
        (length(&[0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]), Length, 1002),
        (length(&[0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1]), TooLong, 1009),
        (frame(0x88, &[3], 7), CloseCode, 1002),
        (frame(0x88, &[0x03, 0xE8, 0xFF], 7), CloseReason, 1007),
    ] {
        let end = end_of(&bytes).expect("a violation");
        assert_eq!((end, end.answer()), (End::Violated(violation), Some(code)), "{bytes:02x?}");
        let before = &bytes[..bytes.len().min(2) - 1];
        assert_eq!(end_of(before), None, "{before:02x?}");
    }
    assert_eq!(end_of(&length(&[0xFF, 0, 0, 0, 0, 0, 0x10, 0, 0])), None, "as long as may be");
    assert_eq!(end_of(&length(&[0xFE, 0, 126])), None);
    assert_eq!(end_of(&length(&[0xFF, 0, 0, 0, 0, 0, 1, 0, 0])), None);
}

#[test]
fn a_close_frame_is_answered_with_its_own_code_if_that_may_be_sent() {
    assert_eq!(end_of(&frame(0x88, b"", 9)), Some(End::Closed(None)));
    for code in 0..=u16::MAX {
        let end = end_of(&frame(0x88, &[&code.to_be_bytes()[..], b"gone"].concat(), 0xA1B2C3D4));
        // RFC 6455, section 7.4, and the registry of IANA.
        let is_valid = match code {
            1000..=2999 => {
                [1000, 1001, 1002, 1003, 1007, 1008, 1009].contains(&code)
                    || [1010, 1011, 1012, 1013, 1014].contains(&code)
            }
            code => (3000..5000).contains(&code),
        };
        let answer = if is_valid { code } else { 1002 };
        assert_eq!(end.and_then(End::answer), Some(answer), "{code}");
        assert_eq!(end == Some(End::Closed(Some(code))), is_valid, "{code}");
    }
}

#[test]
fn nothing_is_carried_after_the_end() {
    for end in [frame(0x88, b"", 1), frame(0x81, b"text", 1)] {
        let bytes = [frame(0x82, b"before", 2), end, frame(0x82, b"after", 3)].concat();
        assert_eq!(decode(&bytes, &[bytes.len()]).0, b"before");
        assert_eq!(decode(&bytes, &[1]).0, b"before");
    }
}

#[test]
fn a_claim_reserves_nothing_and_what_came_of_it_is_handed_on() {
    let mut decoder = Decoder::new(usize::MAX);
    let mut claim = [&[0x82, 0xFF][..], &(1_u64 << 40).to_be_bytes(), &[0; 4], b"bytes"].concat();
    assert_eq!(decoder.decode(&mut claim), 5);
    assert_eq!(&claim[..5], b"bytes");
    let mut half = frame(0x89, &[b'p'; 125], 0)[..20].to_vec();
    decoder = Decoder::new(usize::MAX);
    assert_eq!(decoder.decode(&mut half), 0);
    assert_eq!((decoder.control.len(), decoder.has_ping()), (14, false));
    assert!(decoder.control.capacity() < 32);
    assert!(size_of::<Decoder>() <= 104, "{}", size_of::<Decoder>());
}

/// Any frames that are allowed, and what they carry.
#[derive(Clone, Debug)]
struct Sequence {
    bytes: Vec<u8>,
    carried: Vec<u8>,
    ping: Option<Vec<u8>>,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..20),
        2 => prop::collection::vec(any::<u8>(), 120..300),
        1 => (65_530_usize..65_545).prop_map(|len| (0..len).map(|n| (n * 7) as u8).collect()),
    ];
    let frames = prop::collection::vec((0_u8..6, payload, any::<u32>()), 0..12);
    frames.prop_map(|frames| {
        let mut all = Sequence { bytes: vec![], carried: vec![], ping: None };
        let mut is_within = false;
        for (kind, mut payload, mask) in frames {
            if kind < 2 {
                payload.truncate(125);
                all.bytes.extend(frame(0x89 + kind, &payload, mask));
                if kind == 0 {
                    all.ping = Some(payload);
                }
                continue;
            }
            let opcode = if is_within { 0x00 } else { 0x02 };
            is_within = kind % 2 == 1;
            all.bytes.extend(frame(opcode | u8::from(!is_within) << 7, &payload, mask));
            all.carried.extend(payload);
        }
        all
    })
}

/// A stream that yields what it was given and keeps what is written.
#[derive(Default)]
struct Wire {
    to_read: io::Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.to_read.read(buf) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            read => read,
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.written.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenite(role: Role, to_read: Vec<u8>) -> tungstenite::WebSocket<Wire> {
    let config =
        WebSocketConfig::default().max_frame_size(Some(FRAME_BYTES_MAX)).max_message_size(None);
    let wire = Wire { to_read: io::Cursor::new(to_read), written: vec![] };
    tungstenite::WebSocket::from_raw_socket(wire, role, Some(config))
}

/// What tungstenite as a server makes of bytes: what whole messages carry, and whether it ends
/// with an error. None when a text frame comes, which it takes.
fn judged_by_tungstenite(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut server = tungstenite(Role::Server, bytes.to_vec());
    let mut carried = vec![];
    loop {
        match server.read() {
            Ok(Message::Binary(bytes)) => carried.extend(bytes),
            Ok(Message::Text(_)) | Err(Error::Utf8(_)) => return None,
            Ok(_) => {}
            Err(Error::Io(_) | Error::ConnectionClosed) => return Some((carried, false)),
            Err(_) => return Some((carried, true)),
        }
    }
}

proptest! {
    #[test]
    fn any_frames_in_any_pieces_carry_the_same_bytes(
        sequence in sequence(),
        pieces in prop::collection::vec(1_usize..40, 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let expected = (sequence.carried, sequence.ping, None);
        let bytes = sequence.bytes;
        prop_assert_eq!(&decode(&bytes, &[bytes.len().max(1)]), &expected);
        prop_assert_eq!(&decode(&bytes, &pieces), &expected);
        let cut = cut.index(bytes.len() + 1).max(1);
        prop_assert_eq!(&decode(&bytes, &[cut, bytes.len().max(1)]), &expected);
    }

    #[test]
    fn what_tungstenite_sends_as_a_client_is_what_comes_out(
        messages in prop::collection::vec(
            (0..4, prop::collection::vec(any::<u8>(), 0..400)), 0..20),
        piece in 1_usize..100,
    ) {
        let mut client = tungstenite(Role::Client, vec![]);
        let (mut carried, mut ping) = (vec![], None);
        for (kind, bytes) in messages {
            let control = Bytes::copy_from_slice(bytes.get(..125).unwrap_or(&bytes));
            match kind {
                0 => {
                    ping = Some(control.to_vec());
                    client.send(Message::Ping(control)).unwrap();
                }
                1 => client.send(Message::Pong(control)).unwrap(),
                2 => {
                    client.send(Message::Binary(Bytes::from(bytes.clone()))).unwrap();
                    carried.extend(bytes);
                }
                _ => {
                    // A message in fragments, with a pong between them.
                    let (first, last) = bytes.split_at(bytes.len() / 3);
                    let fragment = |data, part: &[u8], is_final| {
                        let part = Bytes::copy_from_slice(part);
                        Message::Frame(Frame::message(part, OpCode::Data(data), is_final))
                    };
                    client.send(fragment(Data::Binary, first, false)).unwrap();
                    client.send(Message::Pong(Bytes::new())).unwrap();
                    client.send(fragment(Data::Continue, last, true)).unwrap();
                    carried.extend(bytes);
                }
            }
        }
        client.close(None).unwrap();
        let _ = client.flush();
        let expected = (carried, ping, Some(End::Closed(None)));
        prop_assert_eq!(decode(&client.get_ref().written, &[piece]), expected);
    }

    #[test]
    fn what_is_encoded_is_what_tungstenite_reads_as_a_client(
        frames in prop::collection::vec((0..3, prop_oneof![
            0_usize..130, 65_530_usize..65_545]), 0..10),
    ) {
        let mut bytes = vec![];
        let payload = |len| (0..len).map(|n| (n * 3) as u8).collect::<Vec<_>>();
        for (kind, len) in &frames {
            match kind {
                0 => encode(Opcode::Binary, &payload(*len), &mut bytes),
                1 => encode(Opcode::Ping, &payload(*len % 126), &mut bytes),
                _ => encode(Opcode::Pong, &payload(*len % 126), &mut bytes),
            }
        }
        encode(Opcode::Close, &1002_u16.to_be_bytes(), &mut bytes);
        let mut client = tungstenite(Role::Client, bytes);
        for (kind, len) in frames {
            let expected = match kind {
                0 => Message::Binary(payload(len).into()),
                1 => Message::Ping(payload(len % 126).into()),
                _ => Message::Pong(payload(len % 126).into()),
            };
            prop_assert_eq!(client.read().unwrap(), expected);
        }
        let Message::Close(Some(close)) = client.read().unwrap() else { panic!() };
        prop_assert_eq!(u16::from(close.code), 1002);
    }

    /// Good frames with a few bytes changed: what tungstenite refuses is refused, and nothing
    /// else is carried.
    #[test]
    fn what_tungstenite_refuses_is_refused(
        sequence in sequence(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = [sequence.bytes, frame(0x82, b"last", 5)].concat();
        for (at, byte) in changes {
            let at = at.index(bytes.len().min(400));
            bytes[at] = byte;
        }
        let (carried, _, end) = decode(&bytes, &[bytes.len()]);
        if let Some((theirs, has_failed)) = judged_by_tungstenite(&bytes) {
            prop_assert!(!has_failed || matches!(end, Some(End::Violated(_))), "{end:?}");
            // It hands on whole messages only, and takes lengths that are not the shortest, so that
            // it may come further before it refuses something.
            let is_refused = matches!(end, Some(End::Violated(_)));
            let is_same = carried.starts_with(&theirs) || is_refused && theirs.starts_with(&carried);
            prop_assert!(is_same, "{} bytes, {} of tungstenite", carried.len(), theirs.len());
        }
    }
}

#[test]
fn tungstenite_judges_what_it_is_given() {
    let good = frame(0x82, b"good", 0x0102_0304);
    assert_eq!(judged_by_tungstenite(&good), Some((b"good".to_vec(), false)));
    assert_eq!(judged_by_tungstenite(&[0x82, 0]), Some((vec![], true)));
    assert_eq!(judged_by_tungstenite(&frame(0x81, b"text", 0)), None);
}
