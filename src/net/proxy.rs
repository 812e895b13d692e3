//! The PROXY protocol, versions 1 and 2: before its first byte of TLS, WebSocket or MQTT a proxy
//! sends a header that says whose connection it passes on.
//!
//! Who can send the header can claim any address, so it is read from trusted proxies only, and
//! there it must come: a connection without it is not guessed to be a direct one. Exactly the
//! header is taken off the stream.
//!
//! Read by hand: of the packages, `ppp` 2.3.0 takes whole lines such as `PROXY TCP4\r\n` for the
//! beginning of one, and `proxy-header` 0.1.3 takes `PROXYxUNKNOWNxx`. `ppp` is the second opinion
//! in `tests/fuzz/`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::tls::Certified;
use super::transport::Peer;
use secured::{Asked, Secured};

pub mod secured;

/// Longest header of version 1, its line's end included.
const LINE_BYTES_MAX: usize = 107;
/// Longest header of version 2: the addresses take 232 bytes at most, the rest is for extensions,
/// of which those about TLS are read.
const BINARY_BYTES_MAX: usize = 2048;
/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const WORD: &[u8; 6] = b"PROXY ";

/// Settings of a listener behind a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The version of the header that must come.
    pub version: Version,
    /// The proxies that are trusted.
    pub from: Vec<Network>,
    /// What is asked of the TLS that its Clients speak with it; nothing in version 1.
    pub asked: Asked,
}

/// The form of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// An address, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        // A shift by all bits of a u128 leaves nothing: every address is in `::/0`.
        (own ^ other).checked_shr(bits - self.prefix_bits).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = ();

    /// An address, or an address and the number of bits that count: `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(decimal(prefix).ok_or(())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(bits, u32::from);
        (prefix_bits <= bits).then_some(Self { address, prefix_bits }).ok_or(())
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the header.
    pub len: usize,
    /// Where extensions begin; its end if there are none.
    pub extensions_at: usize,
    /// Whose connection it is.
    pub source: Source,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This Client's.
    Client(SocketAddr),
    /// Somebody's whom the proxy does not name: `UNKNOWN`, or not over TCP.
    Unknown,
    /// The proxy's own (`LOCAL`): it looks whether we are well.
    Proxy,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// The header would be believed.
    #[error("a PROXY header is expected here, and this is no trusted proxy")]
    Untrusted,
    /// Something else, or the header of the other version.
    #[error("no PROXY header of version {0}")]
    Missing(u8),
    /// Version 1.
    #[error("a bad PROXY header of version 1: {0}")]
    BadLine(&'static str),
    /// Version 2.
    #[error("a bad PROXY header of version 2: {0}")]
    BadBinary(&'static str),
    /// The listener asks for it.
    #[error("client did not connect using TLS")]
    NoTls,
    /// The listener asks for it.
    #[error("client did not provide a certificate")]
    NoCertificate,
}

impl From<ProxyError> for io::Error {
    fn from(error: ProxyError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Takes the header off a connection, and says in `peer` who it is that the proxy speaks for.
pub async fn accept(stream: &mut TcpStream, options: &Options, peer: &mut Peer) -> io::Result<()> {
    let proxy = stream.peer_addr()?;
    if !options.from.iter().any(|network| network.contains(proxy.ip())) {
        return Err(ProxyError::Untrusted.into());
    }
    let mut held = Vec::new();
    let header = loop {
        let before = held.len();
        held.resize(BINARY_BYTES_MAX, 0);
        let seen = stream.peek(held.get_mut(before..).unwrap_or_default()).await?;
        if seen == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed in a PROXY header"));
        }
        held.truncate(before + seen);
        let header = parse(&held, options.version)?;
        // Without its end in sight all that was seen is the header's.
        let taken = header.map_or(held.len(), |header| header.len).saturating_sub(before);
        stream.read_exact(held.get_mut(before..before + taken).unwrap_or_default()).await?;
        if let Some(header) = header {
            break header;
        }
    };
    let extensions = held.get(header.extensions_at..header.len).unwrap_or_default();
    let secured = Secured::read(extensions)?;
    match header.source {
        Source::Client(client) => {
            tracing::debug!(%proxy, %client, "PROXY header");
            // A remote proxy's loopback is not ours.
            peer.is_loopback &= client.ip().to_canonical().is_loopback();
            (peer.address, peer.is_proxy) = (Some(client), false);
        }
        Source::Unknown => peer.is_loopback = false,
        Source::Proxy => {}
    }
    options.asked.judge(&secured)?;
    let negotiated = secured.version.zip(secured.cipher);
    peer.negotiated =
        negotiated.map(|(version, cipher)| format!("{version} cipher {cipher}").into());
    peer.has_certificate = options.asked.certificate && secured.has_certificate;
    if options.asked.name {
        peer.certified = Certified::named(secured.common_name);
    }
    Ok(())
}

/// Reads a header; `None` while `bytes` are only its beginning.
pub fn parse(bytes: &[u8], version: Version) -> Result<Option<Header>, ProxyError> {
    match version {
        Version::One if begins(bytes, WORD) => parse_line(bytes),
        Version::Two if begins(bytes, SIGNATURE) => parse_binary(bytes),
        Version::One => Err(ProxyError::Missing(1)),
        Version::Two => Err(ProxyError::Missing(2)),
    }
}

/// Whether the bytes begin with the word, as far as they go.
fn begins(bytes: &[u8], word: &[u8]) -> bool {
    bytes.iter().zip(word).all(|(byte, expected)| byte == expected)
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let within = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        if bytes.len() >= LINE_BYTES_MAX {
            return Err(ProxyError::BadLine("longer than 107 bytes"));
        }
        return Ok(None);
    };
    let line = bytes.get(WORD.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(ProxyError::BadLine("not a text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match *words {
        // Whatever follows is to be ignored.
        ["UNKNOWN", ..] => Source::Unknown,
        ["TCP4", source, destination, from, to] => {
            let client = endpoints::<Ipv4Addr>([source, destination], [from, to]);
            Source::Client(client.ok_or(ProxyError::BadLine("not two IPv4 addresses and ports"))?)
        }
        ["TCP6", source, destination, from, to] => {
            let client = endpoints::<Ipv6Addr>([source, destination], [from, to]);
            Source::Client(client.ok_or(ProxyError::BadLine("not two IPv6 addresses and ports"))?)
        }
        ["TCP4" | "TCP6", ..] => return Err(ProxyError::BadLine("not two addresses and ports")),
        _ => return Err(ProxyError::BadLine("neither TCP4, TCP6 nor UNKNOWN")),
    };
    Ok(Some(Header { len: end + 2, extensions_at: end + 2, source }))
}

/// The first of two addresses with the first of two ports; the others must be right too.
fn endpoints<A: FromStr + Into<IpAddr>>(ips: [&str; 2], ports: [&str; 2]) -> Option<SocketAddr> {
    let ([source, destination], [from, to]) = (ips, ports);
    destination.parse::<A>().ok()?;
    decimal(to)?;
    Some(SocketAddr::new(source.parse::<A>().ok()?.into(), decimal(from)?))
}

/// A number without sign and leading zeros.
fn decimal(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain && is_short)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    let Some((&[command, family, high, low], rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = SIGNATURE.len() + 4 + length;
    if len > BINARY_BYTES_MAX {
        return Err(ProxyError::BadBinary("longer than 2,048 bytes"));
    }
    let addresses_len = match (command, family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        (0x21, _) => return Err(ProxyError::BadBinary("an unknown family or protocol")),
        _ => return Err(ProxyError::BadBinary("an unknown version or command")),
    };
    if length < addresses_len {
        return Err(ProxyError::BadBinary("too short for its addresses"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let source = match (command, family) {
        (0x20, _) => Source::Proxy,
        (_, 0x11) => v4_source(body).map_or(Source::Unknown, Source::Client),
        (_, 0x21) => v6_source(body).map_or(Source::Unknown, Source::Client),
        _ => Source::Unknown,
    };
    let extensions_at = match (command, family) {
        // What follows is not said to be extensions.
        (0x20, _) | (_, 0x00) => len,
        _ => len - length + addresses_len,
    };
    Ok(Some(Header { len, extensions_at, source }))
}

/// Source address, destination address, source port, destination port.
fn v4_source(body: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = body.split_first_chunk::<4>()?;
    let port = rest.get(4..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port)))
}

fn v6_source(body: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = body.split_first_chunk::<16>()?;
    let port = rest.get(16..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Option<Source>, ProxyError> {
        let header = parse(text.as_bytes(), Version::One)?;
        Ok(header.map(|header| header.source))
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Result<Option<Source>, ProxyError> {
        let header = [SIGNATURE, &[command, family][..], &(body.len() as u16).to_be_bytes(), body];
        let header = header.concat();
        let whole = parse(&header, Version::Two)?;
        for len in 0..header.len() {
            assert_eq!(parse(&header[..len], Version::Two), Ok(None), "{len} bytes");
        }
        assert!(whole.is_none_or(|whole| whole.len == header.len()));
        Ok(whole.map(|whole| whole.source))
    }

    fn client(address: &str) -> Result<Option<Source>, ProxyError> {
        Ok(Some(Source::Client(address.parse().unwrap())))
    }

    #[test]
    fn a_line_names_the_client() {
        assert_eq!(line("PROXY TCP4 192.0.2.1 10.0.0.1 5 1883\r\n"), client("192.0.2.1:5"));
        assert_eq!(line("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n"), client("[2001:db8::1]:65535"));
        assert_eq!(line("PROXY UNKNOWN\r\n"), Ok(Some(Source::Unknown)));
        assert_eq!(line("PROXY UNKNOWN ffff::1 x y z\r\n"), Ok(Some(Source::Unknown)));
    }

    #[test]
    fn what_follows_the_line_is_not_the_headers() {
        let text = b"PROXY TCP4 192.0.2.1 10.0.0.1 5 1883\r\n\x10\x0c\r\n";
        for len in 0..38 {
            assert_eq!(parse(&text[..len], Version::One), Ok(None), "{len} bytes");
        }
        assert_eq!(parse(text, Version::One).unwrap().unwrap().len, 38);
    }

    #[test]
    fn a_line_that_is_not_exact_is_refused() {
        for bad in [
            "PROXY TCP4\r\n",
            "PROXY \r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5 6 7\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 5 6\r\n",
            "PROXY TCP4 ::1 10.0.0.1 5 6\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 5 6\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +5 6\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 05 6\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 6\r\n",
            "PROXY tcp4 192.0.2.1 10.0.0.1 5 6\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5 6\n\r\n",
        ] {
            assert!(matches!(line(bad), Err(ProxyError::BadLine(_))), "{bad:?}");
        }
        for other in ["proxy TCP4 ", "\x10\x0c\0\x04MQTT", "PROXX", "\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(line(other), Err(ProxyError::Missing(1)), "{other:?}");
        }
    }

    #[test]
    fn a_line_has_at_most_107_bytes() {
        let fits = format!("PROXY UNKNOWN{}\r\n", " ".repeat(107 - 15));
        assert_eq!(line(&fits), Ok(Some(Source::Unknown)));
        let long = format!("PROXY UNKNOWN{}\r\n", " ".repeat(108 - 15));
        assert!(matches!(line(&long), Err(ProxyError::BadLine(_))));
        assert_eq!(line(&long[..106]), Ok(None));
        assert!(matches!(line(&long[..107]), Err(ProxyError::BadLine(_))));
    }

    #[test]
    fn a_binary_header_names_the_client() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 7, 91];
        assert_eq!(binary(0x21, 0x11, &v4), client("192.0.2.1:4660"));
        let extended = [&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        assert_eq!(binary(0x21, 0x11, &extended), client("192.0.2.1:4660"));
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0xFE, 9, 5);
        assert_eq!(binary(0x21, 0x21, &v6), client("[fe00::9]:5"));
        assert_eq!(binary(0x21, 0x31, &[b'/'; 216]), Ok(Some(Source::Unknown)));
        assert_eq!(binary(0x21, 0x00, b"rest"), Ok(Some(Source::Unknown)));
    }

    #[test]
    fn a_local_connection_is_the_proxys_whatever_the_family() {
        for family in [0x00, 0x11, 0x7F] {
            assert_eq!(binary(0x20, family, b"rest"), Ok(Some(Source::Proxy)));
        }
    }

    #[test]
    fn a_binary_header_that_is_not_exact_is_refused() {
        for (command, family, len) in [
            (0x11, 0x11, 12),   // version 1
            (0x22, 0x11, 12),   // command 2
            (0x21, 0x12, 12),   // datagrams
            (0x21, 0x41, 12),   // family 4
            (0x21, 0x11, 11),   // too short
            (0x21, 0x21, 35),   // too short
            (0x21, 0x11, 2033), // too long
        ] {
            let verdict = binary(command, family, &vec![0; len]);
            assert!(matches!(verdict, Err(ProxyError::BadBinary(_))), "{command} {family} {len}");
        }
        let line = parse(b"PROXY UNKNOWN\r\n", Version::Two);
        assert_eq!(line, Err(ProxyError::Missing(2)));
    }

    #[test]
    fn a_network_holds_the_addresses_with_its_prefix() {
        let holds = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.0.2.7", "192.0.2.7"));
        assert!(holds("192.0.2.7", "::ffff:192.0.2.7"));
        assert!(!holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(holds("2001:db8::/33", "2001:db8:7fff::"));
        assert!(!holds("2001:db8::/33", "2001:db8:8000::"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
