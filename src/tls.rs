//! Certificates and keys for the connections to NATS and Redis.
//!
//! They are named by their files and read for each new connection, so that certificates may be
//! renewed without a restart.

use std::path::PathBuf;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// PEM files for TLS; without any, the machine's own certificate authorities are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only authorities that are trusted.
    pub authorities: Option<PathBuf>,
    pub client: Option<ClientFiles>,
}

/// How this process proves to a server who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, then those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Checks the text of a file of authorities.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_authorities(pem: &str) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Checks the texts of a client's certificate and key.
///
/// # Errors
///
/// What is wrong with them; nothing of the key is in it.
pub fn check_client(certificate: &str, key: &str) -> Result<(), String> {
    let certificates = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "the key file holds no private key in PEM".to_owned())?;
    ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(certificates, key)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("holds no certificate in PEM".to_owned()),
    }
}

/// Why one side refused the other in a handshake, where the text of an error says so: trying again
/// does not help. (The client libraries hide the type of the error.)
pub fn refusal(error: &str) -> Option<&'static str> {
    if error.contains("invalid peer certificate") {
        return Some(
            "its certificate is not of a trusted authority, or for another host: give the \
             authority as CATCHUP_CA_FILE, and the host as the certificate has it",
        );
    }
    error.contains("received fatal alert").then_some(
        "it refuses this client: give a certificate that it trusts as \
         CATCHUP_CLIENT_CERTIFICATE_FILE and CATCHUP_CLIENT_KEY_FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_told() {
        for junk in ["", "junk", "-----BEGIN CERTIFICATE-----\nA\n"] {
            assert!(check_authorities(junk).is_err(), "{junk}");
            assert!(check_client(junk, junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn only_a_refused_handshake_is_final() {
        assert!(refusal("io error: connection refused").is_none());
        let untrusted = "TLS error: invalid peer certificate: UnknownIssuer";
        assert!(refusal(untrusted).is_some_and(|text| text.contains("CATCHUP_CA_FILE")));
        let alert = "IO: received fatal alert: CertificateRequired";
        assert!(refusal(alert).is_some_and(|text| text.contains("CLIENT_CERTIFICATE")));
    }
}
