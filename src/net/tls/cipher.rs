//! Cipher suites by the names that OpenSSL and mosquitto use.

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite as suite;

use super::TlsError;

/// Those of TLS 1.2.
const TLS12: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Those of TLS 1.3.
const TLS13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// The suites of both lists, which are written with colons; a list that is not given means all.
pub(super) fn suites(
    tls12: Option<&str>,
    tls13: Option<&str>,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut suites = read(tls13, "ciphers_tls1.3", &TLS13)?;
    suites.extend(read(tls12, "ciphers", &TLS12)?);
    Ok(suites)
}

/// The name of a suite.
pub(super) fn name(suite: SupportedCipherSuite) -> &'static str {
    let found = TLS12.iter().chain(&TLS13).find(|(_, known)| known.suite() == suite.suite());
    found.map_or("unknown", |(name, _)| name)
}

fn read(
    list: Option<&str>,
    key: &'static str,
    known: &[(&'static str, SupportedCipherSuite)],
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let Some(list) = list else { return Ok(known.iter().map(|(_, suite)| *suite).collect()) };
    let find = |name: &str| {
        let found = known.iter().find(|(known, _)| *known == name.trim());
        found.map(|(_, suite)| *suite).ok_or_else(|| TlsError::Cipher {
            key,
            name: name.into(),
            known: known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        })
    };
    list.split(':').filter(|name| !name.trim().is_empty()).map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_has_the_name_that_it_is_chosen_by() {
        for (text, suite) in TLS12.into_iter().chain(TLS13) {
            assert_eq!(name(suite), text);
        }
    }

    #[test]
    fn suites_are_chosen_by_name_and_others_refused() {
        assert_eq!(suites(None, None).unwrap().len(), 9);
        let chosen = suites(Some("ECDHE-RSA-AES128-GCM-SHA256"), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(chosen.unwrap().len(), 2);
        let error = suites(Some("HIGH:!aNULL"), None).unwrap_err().to_string();
        assert!(error.contains("`ciphers` has HIGH, which is none of ECDHE-"), "{error}");
    }
}
