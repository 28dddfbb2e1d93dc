//! How a gateway knows its clients, and which settings contradict each other.

use super::secret::Secret;
use super::setting::Setting;
use super::sources::{Surroundings, Values};
use super::{ConfigError, Role, value};

/// How a gateway knows its clients.
#[derive(Debug, Clone)]
pub enum AuthSettings {
    /// Everybody is who they say. For development only.
    None,
    /// Tokens signed with a shared secret (HS256).
    JwtSecret(Secret),
    /// Tokens signed with a private key.
    JwtPublicKey {
        /// Where the key was read, for errors about it.
        file: String,
        /// The file's text, not yet looked at.
        pem: String,
    },
    /// Tokens signed with one of the keys of a set that is fetched.
    Jwks {
        /// An `http` or `https` URL that may hold a password.
        url: Secret,
    },
}

/// The three sources of keys, of which exactly one must be given.
const KEY_SOURCES: [Setting; 3] = [
    Setting::JwtSecret,
    Setting::JwtPublicKeyFile,
    Setting::JwksUrl,
];
const KEY_SOURCES_TEXT: &str =
    "CATCHUP_JWT_SECRET, CATCHUP_JWT_PUBLIC_KEY_FILE or CATCHUP_JWKS_URL";

pub(super) fn resolve(
    role: Role,
    values: &Values,
    surroundings: &Surroundings<'_>,
) -> Result<Option<AuthSettings>, ConfigError> {
    let is_jwt = values.read(Setting::Auth, |text| match text {
        "jwt" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("{text:?} is neither jwt nor none")),
    })?;
    if !role.uses_auth() {
        return Ok(None);
    }
    let given: Vec<Setting> = KEY_SOURCES
        .into_iter()
        .filter(|setting| values.get(*setting).is_some())
        .collect();
    match (is_jwt, given.as_slice()) {
        (false, []) => Ok(Some(AuthSettings::None)),
        (false, [key, ..]) => Err(values.error(
            *key,
            "contradicts CATCHUP_AUTH=none, which asks for no token: remove one of the two",
        )),
        (true, []) => Err(values.error(
            Setting::Auth,
            &format!(
                "jwt needs a key: set {KEY_SOURCES_TEXT} (for development, CATCHUP_AUTH=none)"
            ),
        )),
        (true, [key]) => key_source(*key, values, surroundings).map(Some),
        (true, [first, second, ..]) => {
            let first = first.variable();
            let problem = format!("contradicts {first}: give exactly one of the two");
            Err(values.error(*second, &problem))
        }
    }
}

fn key_source(
    key: Setting,
    values: &Values,
    surroundings: &Surroundings<'_>,
) -> Result<AuthSettings, ConfigError> {
    let text = values.get(key).unwrap_or_default();
    match key {
        Setting::JwtSecret => Ok(AuthSettings::JwtSecret(Secret::new(text))),
        Setting::JwtPublicKeyFile => {
            let file = text.to_owned();
            let pem = (surroundings.read_file)(text).map_err(|error| {
                values.error(key, &format!("the file {text:?} cannot be read: {error}"))
            })?;
            Ok(AuthSettings::JwtPublicKey { file, pem })
        }
        _ => {
            let url = values.read(Setting::JwksUrl, value::jwks_url)?;
            Ok(AuthSettings::Jwks {
                url: Secret::new(url),
            })
        }
    }
}
