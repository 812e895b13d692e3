//! Client certificates whose time is over, or has not come.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::name;

/// Judges as the one within, but a certificate that is out of date as of the time it was made for.
#[derive(Debug)]
pub(super) struct Timeless {
    pub within: Arc<dyn ClientCertVerifier>,
    /// When the first revocation list is out of date, in seconds since the Unix epoch: a list of
    /// then is no list of now.
    pub lists_until: Option<u64>,
}

impl ClientCertVerifier for Timeless {
    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        use CertificateError as Bad;
        match self.within.verify_client_cert(own, others, now) {
            Err(Error::InvalidCertificate(
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. },
            )) => {
                if self.lists_until.is_some_and(|until| until < now.as_secs()) {
                    return Err(Bad::ExpiredRevocationList.into());
                }
                let then = name::good_moment(own).ok_or(Bad::BadEncoding)?;
                let then = UnixTime::since_unix_epoch(Duration::from_secs(then));
                self.within.verify_client_cert(own, others, then)
            }
            verdict => verdict,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.within.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.within.client_auth_mandatory()
    }

    fn offer_client_auth(&self) -> bool {
        self.within.offer_client_auth()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.within.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.within.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.within.supported_verify_schemes()
    }
}
