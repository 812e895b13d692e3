//! What certificates say of whom they are for, and until when.

use std::fmt::Write;
use std::sync::Arc;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Which part of a Client's certificate is its user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The first Common Name of its subject.
    CommonName,
    /// The whole subject, as RFC 2253 writes it.
    Subject,
    /// The first DNS name, mail address or URI of its Subject Alternative Names.
    AlternativeName,
}

/// Who a Client is by its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Certified {
    /// The listener does not name Clients by their certificates.
    #[default]
    NotAsked,
    /// This.
    As(Arc<str>),
    /// It has no certificate, or one without the part that would be its name.
    Nameless,
}

impl Certified {
    /// Who somebody is that showed this certificate, DER-encoded, or none.
    pub(in crate::net) fn by(naming: Option<Naming>, certificate: Option<&[u8]>) -> Self {
        let Some(naming) = naming else { return Self::NotAsked };
        let name = certificate.and_then(|der| name(naming, der));
        name.map_or(Self::Nameless, |name| Self::As(name.into()))
    }

    /// Who somebody is that a proxy says has a certificate with this name, or without.
    pub(in crate::net) fn named(name: Option<&str>) -> Self {
        name.filter(|name| fits(name)).map_or(Self::Nameless, |name| Self::As(name.into()))
    }
}

/// The subject of a certificate, DER-encoded, as RFC 2253 writes it.
pub(in crate::net) fn subject_of(der: &[u8]) -> Option<Arc<str>> {
    name(Naming::Subject, der).map(Into::into)
}

/// A certificate's name; none that a User Name could not be.
fn name(naming: Naming, der: &[u8]) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let name = match naming {
        Naming::CommonName => {
            certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned()
        }
        Naming::Subject => subject(certificate.subject()),
        Naming::AlternativeName => alternative(&certificate)?,
    };
    fits(&name).then_some(name)
}

/// Whether a text can be a User Name.
fn fits(name: &str) -> bool {
    let has_length = !name.is_empty() && name.len() <= usize::from(u16::MAX);
    has_length && !name.contains(char::is_control)
}

fn alternative(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        _ => None,
    })
}

/// A moment when a certificate holds, in seconds since the Unix epoch.
pub(super) fn good_moment(der: &[u8]) -> Option<u64> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    u64::try_from(certificate.validity().not_before.timestamp()).ok()?.checked_add(1)
}

/// When a revocation list is out of date, in seconds since the Unix epoch.
pub(super) fn list_ends(der: &[u8]) -> Option<u64> {
    let (_, list) = x509_parser::parse_x509_crl(der).ok()?;
    u64::try_from(list.next_update()?.timestamp()).ok()
}

/// Whether a certificate that is no root is that of who has signed another, by its name and, where
/// both say it, by its key: an authority may have had several.
pub(super) fn vouches(der: &[u8], other: &[u8]) -> bool {
    let (Ok((_, by)), Ok((_, of))) = (parse_x509_certificate(der), parse_x509_certificate(other))
    else {
        return false;
    };
    let key = by.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key),
        _ => None,
    });
    let wanted = of.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(wanted) => wanted.key_identifier.as_ref(),
        _ => None,
    });
    let is_key = key.zip(wanted).is_none_or(|(key, wanted)| key == wanted);
    let (issuer, subject) = (of.issuer().as_raw(), by.subject().as_raw());
    is_key && subject == issuer && by.issuer().as_raw() != subject
}

/// When a certificate expires, in seconds since the Unix epoch; `None` for one that cannot be
/// read.
pub(super) fn expires_at(der: &[u8]) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// OpenSSL's short names of the attributes that subjects have.
const ATTRIBUTES: [(&str, &str); 15] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
];

/// A subject as RFC 2253 and mosquitto write it: the most particular part first.
fn subject(name: &X509Name<'_>) -> String {
    // Both the parts and the attributes of a part, as OpenSSL does.
    let reversed = |mut texts: Vec<String>, between: &str| {
        texts.reverse();
        texts.join(between)
    };
    let parts = name.iter_rdn().map(|rdn| reversed(rdn.iter().map(attribute).collect(), "+"));
    reversed(parts.collect(), ",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == id);
    let mut out = known.map_or(id, |(_, name)| (*name).to_owned());
    out.push('=');
    match (known, attribute.as_str()) {
        (Some(_), Ok(text)) => escape(text, &mut out),
        _ => {
            out.push('#');
            attribute.as_slice().iter().for_each(|byte| push_hex(*byte, &mut out));
        }
    }
    out
}

fn push_hex(byte: u8, out: &mut String) {
    let _ = write!(out, "{byte:02X}");
}

fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let at_edge = (byte == b' ' && (at == 0 || at == last)) || (byte == b'#' && at == 0);
        match byte {
            0..0x20 | 0x7F.. => {
                out.push('\\');
                push_hex(byte, out);
            }
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', byte.into()]),
            _ if at_edge => out.extend(['\\', byte.into()]),
            _ => out.push(byte.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        let mut out = String::new();
        escape(" #a,b+c\\é ", &mut out);
        assert_eq!(out, "\\ #a\\,b\\+c\\\\\\C3\\A9\\ ");
        let mut out = String::new();
        escape("#a", &mut out);
        assert_eq!(out, "\\#a");
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(Certified::by(None, Some(b"x")), Certified::NotAsked);
        assert_eq!(Certified::by(Some(Naming::Subject), Some(b"x")), Certified::Nameless);
        assert_eq!(Certified::by(Some(Naming::CommonName), None), Certified::Nameless);
        assert_eq!(expires_at(b"x"), None);
    }
}
