//! Requests to the operator's other services, over HTTP or HTTPS. To be made on threads that may
//! wait; each takes no longer than its deadline, and is given up when its answer is too long.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::problem::FileError;

/// Bytes of an answer.
const ANSWER_LEN_MAX: u64 = 1 << 20;

/// Settings of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Who vouches for the services (PEM); the authorities that browsers know when not given.
    pub authorities: Option<PathBuf>,
    /// Time for a request, from the name's look-up to the end of the answer.
    pub deadline: Duration,
    /// Connections that are kept for the next request.
    pub kept_max: usize,
}

/// Makes requests.
pub struct Http(Agent);

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// Reads what the options name.
    pub fn new(options: &Options) -> Result<Self, FileError> {
        let roots = match &options.authorities {
            Some(path) => RootCerts::new_with_certs(&authorities(path)?),
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_global(Some(options.deadline))
            .http_status_as_error(false)
            // Who answers is who was asked.
            .max_redirects(0)
            .proxy(None)
            .max_idle_connections_per_host(options.kept_max)
            .user_agent(concat!("whimbrel/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(config.new_agent()))
    }

    /// Asks for a page; the error is why there is none.
    pub fn get(&self, url: &str) -> Result<String, String> {
        text(self.0.get(url).header("Accept", "application/json").call())
    }

    /// Posts JSON and asks for an answer; the error is why there is none.
    pub fn post(&self, url: &str, bearer: Option<&str>, json: &[u8]) -> Result<String, String> {
        let mut request = self.0.post(url).header("Accept", "application/json");
        if let Some(bearer) = bearer {
            request = request.header("Authorization", format!("Bearer {bearer}"));
        }
        text(request.header("Content-Type", "application/json").send(json))
    }
}

/// The text of an answer, which must be a good one.
fn text(answer: Result<ureq::http::Response<Body>, ureq::Error>) -> Result<String, String> {
    let mut answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = answer.body_mut().with_config().limit(ANSWER_LEN_MAX);
    body.read_to_string().map_err(|error| error.to_string())
}

fn authorities(path: &Path) -> Result<Vec<Certificate<'static>>, FileError> {
    let bad = |what: String| FileError::whole(path, what);
    let read = |error| bad(format!("no certificate can be read: {error}"));
    let certificates = CertificateDer::pem_file_iter(path).map_err(read)?;
    let certificates: Vec<_> = certificates
        .map(|der| Ok(Certificate::from_der(&der.map_err(read)?).to_owned()))
        .collect::<Result<_, FileError>>()?;
    match certificates.is_empty() {
        true => Err(bad("it has no block -----BEGIN CERTIFICATE-----".into())),
        false => Ok(certificates),
    }
}

/// Whether a text is an address that can be asked.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']));
    has_host && text.parse::<ureq::http::Uri>().is_ok()
}

/// Whether what is sent to an address can be read and changed on the way.
pub fn is_open(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let end = if host.starts_with('[') { host.find(']').map(|at| at + 1) } else { host.find(':') };
    let host = end.and_then(|end| host.get(..end)).unwrap_or(host);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host() {
        for good in ["http://a", "https://a.example:8443/x?y=z", "http://[::1]:80/"] {
            assert!(is_url(good), "{good}");
        }
        for bad in ["", "a.example", "ftp://a", "http://", "https:///x", "http://a b/"] {
            assert!(!is_url(bad), "{bad}");
        }
        for open in ["a.example/x", "127.0.0.1@a.example/", "127.0.0.1.example:80", "localhost.a"] {
            assert!(is_open(&format!("http://{open}")), "{open}");
        }
        for local in ["127.0.0.1:80/x", "localhost:8080", "localhost", "[::1]:80/", "u@[::1]"] {
            assert!(!is_open(&format!("http://{local}")), "{local}");
        }
        assert!(!is_open("https://a.example/"));
    }
}
