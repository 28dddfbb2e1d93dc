//! Where settings come from, and what else may stand there.

use std::ffi::OsString;
use std::io;

use super::setting::{Setting, Settings};
use super::{ConfigError, ReadFile};

/// What a configuration depends on besides the flags.
pub struct Surroundings<'a> {
    /// All variables of the process, also those of others.
    pub environment: Vec<(OsString, OsString)>,
    pub host_name: String,
    /// Reads a whole file as text.
    pub read_file: &'a dyn Fn(&str) -> io::Result<String>,
}

impl Surroundings<'static> {
    /// Those of this process.
    pub fn of_process() -> Surroundings<'static> {
        let host_name = nix::unistd::gethostname().unwrap_or_default();
        Surroundings {
            environment: std::env::vars_os().collect(),
            host_name: host_name.to_string_lossy().into_owned(),
            read_file: &|path| std::fs::read_to_string(path),
        }
    }
}

/// One value and where it stood.
struct Value {
    text: String,
    source: String,
}

/// The value of each setting that was given, by `Setting as usize`.
pub(super) struct Values(Vec<Option<Value>>);

impl Values {
    /// Puts flags over environment over file.
    pub(super) fn collect(
        flags: &Settings,
        surroundings: &Surroundings<'_>,
    ) -> Result<Values, ConfigError> {
        let mut values = Values(Setting::ALL.iter().map(|_| None).collect());
        for setting in Setting::ALL.iter().copied() {
            if let Some(text) = flags.get(setting) {
                values.0[setting as usize] = Some(Value {
                    text: text.to_owned(),
                    source: format!("flag {}", setting.flag()),
                });
            }
        }
        for (name, value) in &surroundings.environment {
            values.add_variable(&name.to_string_lossy(), value)?;
        }
        if let Some(path) = values.get(Setting::Config).map(str::to_owned) {
            values.add_file(&path, surroundings.read_file)?;
        }
        Ok(values)
    }

    fn add_variable(&mut self, name: &str, value: &OsString) -> Result<(), ConfigError> {
        if !name.starts_with("CATCHUP_") {
            return Ok(());
        }
        let Some(setting) = Setting::from_variable(name) else {
            if is_of_kubernetes(name, &value.to_string_lossy()) {
                return Ok(());
            }
            let key = &name["CATCHUP_".len()..];
            let what = format!("the variable {}", one_line(name));
            return Err(unknown(&what, key, Setting::variable));
        };
        let Some(text) = value.to_str() else {
            let variable = setting.variable();
            return Err(ConfigError(format!(
                "{variable} (environment) must be UTF-8 text"
            )));
        };
        self.fill(setting, text.to_owned(), "environment");
        Ok(())
    }

    fn add_file(&mut self, path: &str, read_file: ReadFile<'_>) -> Result<(), ConfigError> {
        let shown = one_line(path);
        let text = read_file(path).map_err(|error| {
            ConfigError(format!(
                "CATCHUP_CONFIG: the file {shown} cannot be read: {error}"
            ))
        })?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // Not the error's own text: it quotes the line, which may hold a secret.
            let start = error.span().map_or(0, |span| span.start);
            let line = text
                .bytes()
                .take(start)
                .filter(|byte| *byte == b'\n')
                .count()
                + 1;
            ConfigError(format!(
                "CATCHUP_CONFIG: line {line} of the file {shown} is no TOML"
            ))
        })?;
        let source = format!("file {shown}");
        for (key, value) in table {
            let setting = Setting::from_key(&key).filter(|setting| *setting != Setting::Config);
            let Some(setting) = setting else {
                let what = format!("the key {} in the {source}", one_line(&key));
                return Err(unknown(&what, &key, |setting| setting.key().to_owned()));
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                _ => {
                    return Err(ConfigError(format!(
                        "{key} in the {source} must be a string"
                    )));
                }
            };
            self.fill(setting, text, &source);
        }
        Ok(())
    }

    /// Takes a value where no stronger source has one. An empty one counts as not given.
    fn fill(&mut self, setting: Setting, text: String, source: &str) {
        let value = &mut self.0[setting as usize];
        if value.is_none() && !text.is_empty() {
            let source = source.to_owned();
            *value = Some(Value { text, source });
        }
    }

    /// The text that was given; `None` where it is not set.
    pub(super) fn get(&self, setting: Setting) -> Option<&str> {
        let value = self.0[setting as usize].as_ref()?;
        (!value.text.is_empty()).then_some(value.text.as_str())
    }

    /// What was given or the default, read by `read`, whose error must not show secrets.
    pub(super) fn read<T>(
        &self,
        setting: Setting,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.read_or(setting, setting.default_text(), read)
    }

    pub(super) fn read_or<T>(
        &self,
        setting: Setting,
        default: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let text = self.get(setting).unwrap_or(default);
        read(text).map_err(|problem| self.error(setting, &problem))
    }

    /// An error that names the setting and where it stood.
    pub(super) fn error(&self, setting: Setting, problem: &str) -> ConfigError {
        let variable = setting.variable();
        let source = self.0[setting as usize].as_ref().map(|value| &value.source);
        let source = source
            .map(|source| format!(" ({source})"))
            .unwrap_or_default();
        ConfigError(format!("{variable}{source}: {problem}"))
    }
}

fn unknown(what: &str, key: &str, name: impl Fn(Setting) -> String) -> ConfigError {
    let hint = match Setting::nearest(key).filter(|setting| *setting != Setting::Config) {
        Some(nearest) => format!("did you mean {}?", name(nearest)),
        None => "remove it; `catchup gateway --help` lists the settings".to_owned(),
    };
    ConfigError(format!("{what} is no setting: {hint}"))
}

/// True for the variables that Kubernetes sets for a service whose name begins with `catchup`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    let is_port = name.ends_with("_PORT") || name.contains("_PORT_");
    if is_port && value.starts_with("tcp://") {
        return true;
    }
    // `…_PORT_8080_TCP_ADDR` and its two siblings.
    let Some((rest, "PROTO" | "PORT" | "ADDR")) = name.rsplit_once('_') else {
        return false;
    };
    let number = rest
        .strip_suffix("_TCP")
        .and_then(|rest| rest.rsplit_once("_PORT_"));
    number.is_some_and(|(_, digits)| digits.parse::<u16>().is_ok())
}

/// A name that somebody else chose, so that it cannot break the line.
fn one_line(name: &str) -> String {
    name.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}
