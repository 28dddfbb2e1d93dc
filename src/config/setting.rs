//! The names of the settings: one list for flags, environment, file and help.

/// Declares [`Setting`] and the flags of the same names.
macro_rules! settings {
    ($($(#[doc = $help:literal])+ $variant:ident, $field:ident, $name:literal, $default:literal,
       $value:literal;)+) => {
        /// A setting of contract §2.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Setting {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Setting {
            /// Every setting, in the order of `as usize`.
            pub const ALL: &'static [Setting] = &[$(Setting::$variant,)+];

            /// The name as a key of the file: `nats_url`.
            pub fn key(self) -> &'static str {
                match self {
                    $(Setting::$variant => $name,)+
                }
            }

            /// What holds where nothing is given; empty where there is no such value.
            pub fn default_text(self) -> &'static str {
                match self {
                    $(Setting::$variant => $default,)+
                }
            }
        }

        /// The settings as flags, for every command that has a configuration.
        ///
        /// An empty flag means the default, whatever environment and file say.
        #[derive(clap::Args, Clone, Default)]
        #[command(next_help_heading = "Settings (also from the environment, or the file)")]
        pub struct Settings {
            $($(#[doc = $help])+
            #[arg(long, value_name = $value)]
            pub $field: Option<String>,)+
        }

        impl Settings {
            /// The flag of a setting, where it was given.
            pub fn get(&self, setting: Setting) -> Option<&str> {
                match setting {
                    $(Setting::$variant => self.$field.as_deref(),)+
                }
            }
        }
    };
}

settings! {
    /// TOML file with settings [CATCHUP_CONFIG]
    Config, config, "config", "", "FILE";
    /// NATS servers, comma-separated; tls:// for TLS [CATCHUP_NATS_URL; default: nats://127.0.0.1:4222]
    NatsUrl, nats_url, "nats_url", "nats://127.0.0.1:4222", "URLS";
    /// Redis or Valkey: redis://, with TLS rediss://, or the sentinels that know the primary,
    /// redis+sentinel://a:1,b:2/NAME [CATCHUP_REDIS_URL; default: redis://127.0.0.1:6379]
    RedisUrl, redis_url, "redis_url", "redis://127.0.0.1:6379", "URL";
    /// PEM file with the authorities that sign the certificates of NATS and Redis, instead of the
    /// machine's own [CATCHUP_CA_FILE]
    CaFile, ca_file, "ca_file", "", "FILE";
    /// PEM file with the certificate that this process shows to NATS and Redis
    /// [CATCHUP_CLIENT_CERTIFICATE_FILE]
    ClientCertificateFile, client_certificate_file, "client_certificate_file", "", "FILE";
    /// PEM file with the key of that certificate [CATCHUP_CLIENT_KEY_FILE]
    ClientKeyFile, client_key_file, "client_key_file", "", "FILE";
    /// File with the JWT and seed of a NATS user [CATCHUP_NATS_CREDENTIALS_FILE]
    NatsCredentialsFile, nats_credentials_file, "nats_credentials_file", "", "FILE";
    /// File with the seed of a NATS user's nkey [CATCHUP_NATS_NKEY_FILE]
    NatsNkeyFile, nats_nkey_file, "nats_nkey_file", "", "FILE";
    /// How many servers of a NATS cluster keep each stream, 1 to 5; used when a stream is made
    /// [CATCHUP_REPLICAS; default: 1]
    Replicas, replicas, "replicas", "1", "COUNT";
    /// Put before every name in NATS and Redis [CATCHUP_NAMESPACE; default: empty]
    Namespace, namespace, "namespace", "", "NAME";
    /// Where a gateway listens for clients [CATCHUP_LISTEN; default: 0.0.0.0:8080]
    Listen, listen, "listen", "0.0.0.0:8080", "ADDRESS";
    /// Where health and metrics are served [CATCHUP_ADMIN_LISTEN; default: 0.0.0.0:9090]
    AdminListen, admin_listen, "admin_listen", "0.0.0.0:9090", "ADDRESS";
    /// Name of this node [CATCHUP_NODE; default: the host's name]
    Node, node, "node", "", "NAME";
    /// How long a message waits, 1s to 30d [CATCHUP_MESSAGE_TTL; default: 24h]
    MessageTtl, message_ttl, "message_ttl", "24h", "DURATION";
    /// Most messages waiting for one user [CATCHUP_MAX_MESSAGES; default: 1000]
    MaxMessages, max_messages, "max_messages", "1000", "COUNT";
    /// How a gateway knows its clients: jwt, or none for development [CATCHUP_AUTH; default: jwt]
    Auth, auth, "auth", "jwt", "KIND";
    /// Secret of HS256 tokens [CATCHUP_JWT_SECRET]. As a flag it can be read in the list of
    /// processes: prefer the environment or the file
    JwtSecret, jwt_secret, "jwt_secret", "", "SECRET";
    /// PEM file with the public key of tokens [CATCHUP_JWT_PUBLIC_KEY_FILE]
    JwtPublicKeyFile, jwt_public_key_file, "jwt_public_key_file", "", "FILE";
    /// URL of a set of public keys (JWKS), http or https; fetched again every few minutes and when
    /// a token names a key that is not in it [CATCHUP_JWKS_URL]
    JwksUrl, jwks_url, "jwks_url", "", "URL";
    /// Browser origins that may connect, comma-separated, or * [CATCHUP_ALLOWED_ORIGINS; default:
    /// same origin]
    AllowedOrigins, allowed_origins, "allowed_origins", "", "ORIGINS";
    /// Over how long a gateway that leaves spreads its clients' reconnects, 0s to 10m. Give it that
    /// and 15 s more before you kill it [CATCHUP_DRAIN; default: 30s]
    Drain, drain, "drain", "30s", "DURATION";
    /// Most sockets of one gateway; one more is refused with 429 [CATCHUP_MAX_CONNECTIONS; default:
    /// 50000]
    MaxConnections, max_connections, "max_connections", "50000", "COUNT";
    /// Most sockets from one peer address (IPv6: from one /64 network). Behind a proxy all clients
    /// have its address: set it to the number that one proxy may bring
    /// [CATCHUP_MAX_CONNECTIONS_PER_ADDRESS; default: 25000]
    MaxConnectionsPerAddress, max_connections_per_address, "max_connections_per_address", "25000",
        "COUNT";
    /// New sockets a second that a gateway lets in; more wait for up to a second, and beyond that
    /// are asked to come back later (503, Retry-After) [CATCHUP_CONNECTS_PER_SECOND; default: 500]
    ConnectsPerSecond, connects_per_second, "connects_per_second", "500", "COUNT";
    /// Log filter: a level, or MODULE=LEVEL, comma-separated [CATCHUP_LOG; default: info]
    Log, log, "log", "info", "FILTER";
    /// Log format: text or json [CATCHUP_LOG_FORMAT; default: text]
    LogFormat, log_format, "log_format", "text", "FORMAT";
}

impl Setting {
    /// The name as a variable: `CATCHUP_NATS_URL`.
    pub fn variable(self) -> String {
        format!("CATCHUP_{}", self.key().to_ascii_uppercase())
    }

    /// The name as a flag: `--nats-url`.
    pub fn flag(self) -> String {
        format!("--{}", self.key().replace('_', "-"))
    }

    /// The setting of a file's key.
    pub fn from_key(key: &str) -> Option<Setting> {
        Setting::ALL
            .iter()
            .copied()
            .find(|setting| setting.key() == key)
    }

    /// The setting of a variable.
    pub fn from_variable(variable: &str) -> Option<Setting> {
        let key = variable.strip_prefix("CATCHUP_")?;
        Setting::ALL
            .iter()
            .copied()
            .find(|setting| setting.key().to_ascii_uppercase() == key)
    }

    /// The setting whose key is most like `key`, where one is like it at all.
    pub fn nearest(key: &str) -> Option<Setting> {
        let key = key.to_ascii_lowercase().replace('-', "_");
        let distance = |setting: Setting| edit_distance(&key, setting.key());
        let settings = Setting::ALL.iter().copied();
        let nearest = settings.min_by_key(|setting| distance(*setting))?;
        // More than a third of the letters wrong is another word.
        (3 * distance(nearest) <= nearest.key().len()).then_some(nearest)
    }
}

/// How many letters must be put in, left out or replaced to make one text the other (Levenshtein).
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn flags_are_the_settings() {
        let command = Settings::augment_args(clap::Command::new("test"));
        let flags: Vec<String> = command
            .get_arguments()
            .map(|argument| format!("--{}", argument.get_long().unwrap()))
            .collect();
        let expected: Vec<String> = Setting::ALL.iter().map(|setting| setting.flag()).collect();
        assert_eq!(flags, expected);
    }

    #[test]
    fn the_help_names_the_variable_and_the_default() {
        let mut command = Settings::augment_args(clap::Command::new("test")).term_width(10_000);
        let help = command.render_long_help().to_string();
        for setting in Setting::ALL {
            assert!(help.contains(&format!("[{}", setting.variable())), "{help}");
            let default = setting.default_text();
            assert!(default.is_empty() || help.contains(&format!("default: {default}]")));
        }
    }

    #[test]
    fn names_lead_to_their_setting() {
        for setting in Setting::ALL {
            assert_eq!(Setting::from_key(setting.key()), Some(*setting));
            assert_eq!(Setting::from_variable(&setting.variable()), Some(*setting));
            assert_eq!(Setting::ALL[*setting as usize], *setting);
        }
        assert_eq!(Setting::from_variable("CATCHUP_nats_url"), None);
        assert_eq!(Setting::from_variable("NATS_URL"), None);
    }

    #[test]
    fn misspelt_names_find_their_neighbour() {
        for (key, nearest) in [
            ("nats_urls", Some(Setting::NatsUrl)),
            ("NATS-URL", Some(Setting::NatsUrl)),
            ("mesage_ttl", Some(Setting::MessageTtl)),
            ("max_message", Some(Setting::MaxMessages)),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(Setting::nearest(key), nearest, "{key}");
        }
    }
}
