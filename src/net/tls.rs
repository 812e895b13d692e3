//! TLS for listeners: certificates and keys read, and what is wrong with them said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Settings of a listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The server's certificate, followed by those that vouch for it (PEM).
    pub certificate: PathBuf,
    /// The key of the server's certificate (PEM).
    pub key: PathBuf,
    /// Authorities whose Client certificates are trusted (PEM); Clients are asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a Client without a certificate is refused.
    pub require_certificate: bool,
    /// Whether TLS 1.2 is refused.
    pub tls13_only: bool,
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
pub fn load(options: &Options) -> Result<Arc<ServerConfig>, TlsError> {
    static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let versions = if options.tls13_only { TLS13 } else { rustls::ALL_VERSIONS };
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key)
        .map_err(|error| pem_error("key", "PRIVATE KEY", &options.key, &error))?;
    let mismatch = |error: rustls::Error| TlsError::Mismatch {
        certificate: options.certificate.clone(),
        key: options.key.clone(),
        why: error.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(mismatch)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, options)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(mismatch)?;
    // Four resumption tickets per connection are rustls' default of two twice over; one does.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
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
    path: &Path,
    options: &Options,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let unusable = |why: String| TlsError::Authorities { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !options.require_certificate {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(|verifier| verifier as _).map_err(|error| unusable(error.to_string()))
}
