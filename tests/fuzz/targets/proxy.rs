//! PROXY headers: read the same however the bytes come, and never otherwise than by `ppp`.

use std::net::SocketAddr;

use whimbrel::net::proxy::{Source, Version, parse};

/// The first byte chooses the version, the others are the stream.
pub fn run(bytes: &[u8]) {
    let Some((&choice, stream)) = bytes.split_first() else { return };
    let version = if choice % 2 == 0 { Version::One } else { Version::Two };
    let verdict = parse(stream, version);
    match verdict {
        Ok(None) => assert!(stream.len() < 2048, "a header is bounded"),
        Ok(Some(header)) => {
            assert!((15..=stream.len()).contains(&header.len));
            assert_eq!(parse(&stream[..header.len], version), verdict, "only the header counts");
            for len in [header.len - 1, header.len / 2, 13, 5, 0] {
                assert_eq!(parse(&stream[..len], version), Ok(None), "{len} of {}", header.len);
            }
            let theirs = match version {
                Version::One => one(&stream[..header.len]),
                Version::Two => two(&stream[..header.len]),
            };
            match (header.source, theirs) {
                (Source::Client(ours), Some(theirs)) => assert_eq!(ours, theirs),
                (Source::Client(_), None) => panic!("ppp reads no Client"),
                (Source::Unknown | Source::Proxy, _) => {}
            }
        }
        Err(_) => {
            let more = [stream, b"\r\n"].concat();
            assert!(parse(&more, version).is_err(), "more bytes make nothing better");
        }
    }
}

fn one(line: &[u8]) -> Option<SocketAddr> {
    match ppp::v1::Header::try_from(line).ok()?.addresses {
        ppp::v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        ppp::v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        ppp::v1::Addresses::Unknown => None,
    }
}

fn two(header: &[u8]) -> Option<SocketAddr> {
    match ppp::v2::Header::try_from(header).ok()?.addresses {
        ppp::v2::Addresses::IPv4(a) => Some((a.source_address, a.source_port).into()),
        ppp::v2::Addresses::IPv6(a) => Some((a.source_address, a.source_port).into()),
        _ => None,
    }
}
