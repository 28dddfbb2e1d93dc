//! How the connections to NATS and Redis are secured: certificates, keys, credentials.

use super::secret::Secret;
use super::setting::Setting;
use super::sources::{Surroundings, Values};
use super::{ConfigError, Role};
use crate::bus;
use crate::tls::{self, ClientFiles, TlsFiles};

/// How a process proves to NATS who it is, besides what stands in the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsCredentials {
    /// The text of a file with a JWT and a seed, as `nsc` writes it.
    Credentials(Secret),
    /// The seed of an nkey.
    Nkey(Secret),
}

/// Reads and checks the files for TLS. They are read again for each connection.
pub(super) fn tls_files(
    role: Role,
    values: &Values,
    surroundings: &Surroundings<'_>,
) -> Result<TlsFiles, ConfigError> {
    if role == Role::Listen {
        return Ok(TlsFiles::default());
    }
    let mut files = TlsFiles::default();
    if let Some(path) = values.get(Setting::CaFile) {
        let pem = read(Setting::CaFile, values, surroundings)?;
        tls::check_authorities(&pem).map_err(|problem| {
            values.error(Setting::CaFile, &format!("the file {path:?} {problem}"))
        })?;
        files.authorities = Some(path.into());
    }
    let [certificate, key] = [Setting::ClientCertificateFile, Setting::ClientKeyFile];
    match (values.get(certificate), values.get(key)) {
        (None, None) => {}
        (Some(_), None) => {
            return Err(values.error(certificate, "needs CATCHUP_CLIENT_KEY_FILE as well"));
        }
        (None, Some(_)) => {
            return Err(values.error(key, "needs CATCHUP_CLIENT_CERTIFICATE_FILE as well"));
        }
        (Some(certificate_path), Some(key_path)) => {
            let certificate_pem = read(certificate, values, surroundings)?;
            let key_pem = read(key, values, surroundings)?;
            tls::check_client(&certificate_pem, &key_pem)
                .map_err(|problem| values.error(certificate, &problem))?;
            files.client = Some(ClientFiles {
                certificate: certificate_path.into(),
                key: key_path.into(),
            });
        }
    }
    Ok(files)
}

/// Reads and checks what proves to NATS who this process is.
pub(super) fn nats_credentials(
    role: Role,
    values: &Values,
    surroundings: &Surroundings<'_>,
) -> Result<Option<NatsCredentials>, ConfigError> {
    let [file, nkey] = [Setting::NatsCredentialsFile, Setting::NatsNkeyFile];
    let setting = match (values.get(file), values.get(nkey)) {
        _ if role == Role::Listen => return Ok(None),
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let problem = "contradicts CATCHUP_NATS_CREDENTIALS_FILE: give one of the two";
            return Err(values.error(nkey, problem));
        }
        (Some(_), None) => file,
        (None, Some(_)) => nkey,
    };
    let urls = values.get(Setting::NatsUrl).unwrap_or_default();
    if urls.contains('@') {
        let problem = "contradicts the user in CATCHUP_NATS_URL: give one of the two";
        return Err(values.error(setting, problem));
    }
    let text = read(setting, values, surroundings)?;
    if setting == nkey {
        let seed = text.trim();
        // As `nk -gen user` writes it: a prefix for seeds and one for users, then base 32.
        let is_seed = seed.len() == 58
            && seed.starts_with("SU")
            && seed
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        return match is_seed {
            true => Ok(Some(NatsCredentials::Nkey(Secret::new(seed)))),
            false => Err(values.error(nkey, "the file holds no seed of a user (SU…)")),
        };
    }
    match bus::is_credentials(&text) {
        true => Ok(Some(NatsCredentials::Credentials(Secret::new(text)))),
        false => Err(values.error(file, "the file holds no JWT with its seed")),
    }
}

fn read(
    setting: Setting,
    values: &Values,
    surroundings: &Surroundings<'_>,
) -> Result<String, ConfigError> {
    let path = values.get(setting).unwrap_or_default();
    (surroundings.read_file)(path).map_err(|error| {
        values.error(
            setting,
            &format!("the file {path:?} cannot be read: {error}"),
        )
    })
}
