//! TLS for listeners: certificates and keys read, and what is wrong with them said.
//!
//! A listener may have several certificates: a Client gets the first that is for the host that it
//! names and that it can verify, else the first of all.

mod cipher;
mod live;
mod name;
mod timeless;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use thiserror::Error;

pub use live::Tls;
pub(in crate::net) use name::subject_of;
pub use name::{Certified, Naming};
use timeless::Timeless;

/// Settings of a listener's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The server's certificates, each followed by those that vouch for it, with their keys (PEM).
    pub certificates: Vec<Pair>,
    /// Authorities whose Client certificates are trusted (PEM); Clients are asked for one.
    pub client_ca: Option<PathBuf>,
    /// The same, as a directory of such files.
    pub client_ca_directory: Option<PathBuf>,
    /// Client certificates that are revoked (PEM).
    pub revoked: Option<PathBuf>,
    /// Whether a Client without a certificate is refused.
    pub require_certificate: bool,
    /// Whether a Client's certificate may be out of date.
    pub is_timeless: bool,
    /// Which part of its certificate is a Client's user name.
    pub naming: Option<Naming>,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Cipher suites of TLS 1.2, by OpenSSL's names.
    pub ciphers: Option<String>,
    /// Cipher suites of TLS 1.3.
    pub ciphers_tls13: Option<String>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Options {
    /// Every file that is read, as far as they are known.
    fn files(&self) -> Vec<PathBuf> {
        let pairs = self.certificates.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        let mut files: Vec<PathBuf> =
            pairs.chain(&self.client_ca).chain(&self.revoked).cloned().collect();
        if let Some(directory) = &self.client_ca_directory {
            files.extend(files_of(directory).unwrap_or_default());
        }
        files
    }

    fn has_authorities(&self) -> bool {
        self.client_ca.is_some() || self.client_ca_directory.is_some()
    }
}

/// What was read.
#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// When each certificate expires, in seconds since the Unix epoch, and its file.
    expiries: Vec<(PathBuf, i64)>,
}

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} {path}: {why}", path = .path.display())]
    Unreadable {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A file holds something else.
    #[error(
        "{path} holds no {what}: it must be a PEM file with a block -----BEGIN {block}-----",
        path = .path.display()
    )]
    Empty {
        /// What the file should hold.
        what: &'static str,
        /// The name of its PEM block.
        block: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or rustls refuses them.
    #[error(
        "the certificate {certificate} cannot be used with the key {key}: {why}",
        certificate = .certificate.display(), key = .key.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        why: String,
    },
    /// A cipher suite that is not known, or not a safe one.
    #[error("`{key}` has {name}, which is none of {known}")]
    Cipher {
        /// The setting.
        key: &'static str,
        /// The name in it.
        name: String,
        /// The names that it may have.
        known: String,
    },
    /// The protocol cannot be spoken so.
    #[error("TLS cannot be set up: {0}")]
    Unspeakable(String),
    /// The authorities for Client certificates cannot be used.
    #[error("the client authorities in {path} cannot be used: {why}", path = .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Reads what the options name.
fn load(options: &Options) -> Result<Loaded, TlsError> {
    static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let versions = if options.tls13_only { TLS13 } else { rustls::ALL_VERSIONS };
    let cipher_suites =
        cipher::suites(options.ciphers.as_deref(), options.ciphers_tls13.as_deref())?;
    let provider =
        Arc::new(CryptoProvider { cipher_suites, ..rustls::crypto::ring::default_provider() });
    let authorities = authorities(options)?;
    let read = |pair| certified(pair, &authorities, &provider);
    let certificates: Vec<_> = options.certificates.iter().map(read).collect::<Result<_, _>>()?;
    let ends = certificates.iter().filter_map(|certified| certified.cert.first());
    let files = options.certificates.iter().map(|pair| pair.certificate.clone());
    let expiries =
        files.zip(ends).filter_map(|(file, der)| Some((file, name::expires_at(der)?))).collect();
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::Unspeakable(error.to_string()))?;
    let builder = match options.has_authorities() {
        false => builder.with_no_client_auth(),
        true => builder.with_client_cert_verifier(verifier(options)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByHost(certificates)));
    // Four resumption tickets per connection are rustls' default of two twice over; one does.
    config.send_tls13_tickets = 1;
    Ok(Loaded { config: Arc::new(config), expiries })
}

fn certified(
    pair: &Pair,
    authorities: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let Pair { certificate, key } = pair;
    let mut chain = certificates(certificate)?;
    complete(&mut chain, authorities);
    let der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| pem_error("key", "PRIVATE KEY", key, &error))?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch {
        certificate: certificate.clone(),
        key: key.clone(),
        why: error.to_string(),
    };
    CertifiedKey::from_der(chain, der, provider).map(Arc::new).map_err(mismatch)
}

/// Certificates that may vouch for the server's own too.
fn authorities(options: &Options) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut authorities = Vec::new();
    if let Some(path) = &options.client_ca {
        authorities.extend(certificates(path)?);
    }
    // What is wrong with the directory is said when its certificates are to be trusted.
    let files = options.client_ca_directory.as_deref().and_then(|path| files_of(path).ok());
    for path in files.iter().flatten() {
        authorities.extend(certificates(path).unwrap_or_default());
    }
    Ok(authorities)
}

/// Adds to a certificate that stands alone those that vouch for it, up to the root, which who
/// trusts it has: OpenSSL does so, and there are files that rely on it.
fn complete(chain: &mut Vec<CertificateDer<'static>>, authorities: &[CertificateDer<'static>]) {
    if chain.len() != 1 {
        return;
    }
    while let Some(last) = chain.last() {
        // Two authorities may vouch for each other.
        let vouches = |der: &&CertificateDer<'_>| name::vouches(der, last) && !chain.contains(der);
        let Some(next) = authorities.iter().find(vouches).cloned() else { return };
        chain.push(next);
    }
}

/// Chooses a certificate by the host that the Client names, and by what it can verify.
#[derive(Debug)]
struct ByHost(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |certified: &&Arc<CertifiedKey>| {
            certified.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let host = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let is_for_host = |certified: &&Arc<CertifiedKey>| {
            host.as_ref().is_some_and(|host| is_for(certified, host))
        };
        let named = self.0.iter().filter(is_for_host).find(usable);
        named.or_else(|| self.0.iter().find(usable)).or(self.0.first()).cloned()
    }
}

fn is_for(certified: &CertifiedKey, host: &ServerName<'_>) -> bool {
    let certificate = certified.cert.first().and_then(|der| ParsedCertificate::try_from(der).ok());
    certificate.is_some_and(|certificate| verify_server_name(&certificate, host).is_ok())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "certificate";
    let error = |error: pem::Error| pem_error(WHAT, "CERTIFICATE", path, &error);
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(error)?.collect();
    let certificates = certificates.map_err(error)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what: WHAT, block: "CERTIFICATE", path: path.to_owned() });
    }
    Ok(certificates)
}

fn pem_error(what: &'static str, block: &'static str, path: &Path, error: &pem::Error) -> TlsError {
    match error {
        pem::Error::NoItemsFound => TlsError::Empty { what, block, path: path.to_owned() },
        pem::Error::Io(error) => {
            TlsError::Unreadable { what, path: path.to_owned(), why: error.to_string() }
        }
        other => TlsError::Unreadable { what, path: path.to_owned(), why: other.to_string() },
    }
}

fn verifier(
    options: &Options,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.client_ca {
        trust(&mut roots, certificates(path)?, path)?;
    }
    if let Some(directory) = &options.client_ca_directory {
        trust_directory(&mut roots, directory)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut lists_until = None;
    if let Some(path) = &options.revoked {
        let lists = revocations(path)?;
        // One that does not say until when it holds is not believed for ever.
        lists_until = lists.iter().map(|list| name::list_ends(list).unwrap_or(0)).min();
        // As OpenSSL and mosquitto do: the Client's own certificate is looked up, and must be
        // covered by a list that has not expired.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
    }
    if !options.require_certificate {
        builder = builder.allow_unauthenticated();
    }
    let paths = [&options.revoked, &options.client_ca, &options.client_ca_directory];
    let path = paths.into_iter().flatten().next().cloned().unwrap_or_default();
    let unusable = |error: rustls::server::VerifierBuilderError| TlsError::Authorities {
        path,
        why: error.to_string(),
    };
    let verifier = builder.build().map_err(unusable)?;
    let timeless = |within| Arc::new(Timeless { within, lists_until });
    Ok(if options.is_timeless { timeless(verifier) } else { verifier })
}

fn trust(
    roots: &mut RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
    path: &Path,
) -> Result<(), TlsError> {
    let unusable =
        |error: rustls::Error| TlsError::Authorities { path: path.into(), why: error.to_string() };
    certificates.into_iter().try_for_each(|der| roots.add(der).map_err(unusable))
}

/// Trusts all certificates that lie in a directory; other files in it mean nothing.
fn trust_directory(roots: &mut RootCertStore, directory: &Path) -> Result<(), TlsError> {
    const WHAT: &str = "client authorities";
    let unreadable = |error: std::io::Error| TlsError::Unreadable {
        what: WHAT,
        path: directory.to_owned(),
        why: error.to_string(),
    };
    for path in files_of(directory).map_err(unreadable)? {
        match certificates(&path) {
            Ok(certificates) => trust(roots, certificates, &path)?,
            Err(TlsError::Empty { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if roots.is_empty() {
        let why = "it has no file with a certificate".into();
        return Err(TlsError::Authorities { path: directory.to_owned(), why });
    }
    Ok(())
}

/// The files of a directory, in order.
fn files_of(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries: Vec<_> = std::fs::read_dir(directory)?.collect::<std::io::Result<_>>()?;
    let mut files: Vec<_> =
        entries.iter().map(std::fs::DirEntry::path).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const WHAT: &str = "revocation list";
    let error = |error: pem::Error| pem_error(WHAT, "X509 CRL", path, &error);
    let lists: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_file_iter(path).map_err(error)?.collect();
    let lists = lists.map_err(error)?;
    if lists.is_empty() {
        return Err(TlsError::Empty { what: WHAT, block: "X509 CRL", path: path.to_owned() });
    }
    Ok(lists)
}

/// What a Client and the listener have agreed on, as OpenSSL names it.
pub(super) fn negotiated(connection: &ServerConnection) -> Option<Box<str>> {
    let version = match connection.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let suite = connection.negotiated_cipher_suite()?;
    Some(format!("{version} cipher {}", cipher::name(suite)).into())
}
