//! Finding server programs that are new enough.
//!
//! An old one is passed over, not tried: a nats-server 2.9 accepts Catchup's streams and
//! silently drops what orders the events.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// A server that dev starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nats,
    Store,
}

/// What a program says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    product: &'static str,
    major: u32,
    minor: u32,
}

/// How each product's `--version` begins, and the oldest release that will do.
const PRODUCTS: [(Kind, &str, &str, (u32, u32)); 3] = [
    (Kind::Nats, "nats-server", "nats-server: v", (2, 10)),
    (Kind::Store, "redis-server", "Redis server v=", (7, 0)),
    (Kind::Store, "valkey-server", "Valkey server v=", (8, 0)),
];

impl Kind {
    fn names(self) -> &'static [&'static str] {
        match self {
            Kind::Nats => &["nats-server"],
            Kind::Store => &["valkey-server", "redis-server"],
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Kind::Nats => "nats-server 2.10 or newer",
            Kind::Store => "redis-server 7.0 or valkey-server 8 or newer",
        }
    }

    fn flags(self) -> &'static str {
        match self {
            Kind::Nats => "--nats-server PATH or --nats-url URL",
            Kind::Store => "--redis-server PATH or --redis-url URL",
        }
    }
}

/// The program that was given, or the first on the PATH that is new enough.
///
/// # Errors
///
/// Where there is none; the text says what to do.
pub fn find(kind: Kind, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(program) => {
            check(kind, program)?;
            // A child is started in the same folder, but its name may hold no slash.
            Ok(std::path::absolute(program)?)
        }
        None => find_on(kind, &env::var_os("PATH").unwrap_or_default()),
    }
}

fn find_on(kind: Kind, path: &std::ffi::OsStr) -> anyhow::Result<PathBuf> {
    let mut passed_over = Vec::new();
    for folder in env::split_paths(path) {
        for name in kind.names() {
            let program = folder.join(name);
            if !program.is_file() {
                continue;
            }
            match check(kind, &program) {
                Ok(()) => return Ok(program),
                Err(error) => passed_over.push(format!("{error:#}")),
            }
        }
    }
    let passed_over = match passed_over.is_empty() {
        true => String::new(),
        false => format!(" ({})", passed_over.join("; ")),
    };
    let (wanted, flags) = (kind.wanted(), kind.flags());
    bail!("no {wanted} on the PATH{passed_over}: use scripts/run, which brings one, or {flags}")
}

/// Runs `program --version` and compares.
fn check(kind: Kind, program: &Path) -> anyhow::Result<()> {
    let shown = program.display();
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{shown} does not run"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = Version::parse(kind, &text) else {
        bail!("{shown} is no {}", kind.wanted());
    };
    if !version.is_recent() {
        let Version {
            product,
            major,
            minor,
        } = version;
        bail!("{shown} is {product} {major}.{minor}, which is too old");
    }
    Ok(())
}

impl Version {
    fn parse(kind: Kind, text: &str) -> Option<Version> {
        let products = PRODUCTS.iter().filter(|(of, ..)| *of == kind);
        let mut versions = products.filter_map(|(_, product, prefix, _)| {
            let (_, version) = text.split_once(prefix)?;
            let mut numbers = version.split(|next: char| !next.is_ascii_digit());
            Some(Version {
                product,
                major: numbers.next()?.parse().ok()?,
                minor: numbers.next()?.parse().ok()?,
            })
        });
        versions.next()
    }

    fn is_recent(&self) -> bool {
        let mut products = PRODUCTS.iter();
        let product = products.find(|(_, product, ..)| *product == self.product);
        product.is_some_and(|(.., oldest)| (self.major, self.minor) >= *oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake(folder: &Path, name: &str, version: &str) -> PathBuf {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        for (kind, text, is_recent) in [
            (Kind::Nats, "nats-server: v2.9.10\n", false),
            (Kind::Nats, "nats-server: v2.10.0\n", true),
            (Kind::Nats, "nats-server: v3.0.0-preview\n", true),
            (Kind::Store, "Redis server v=6.2.14 sha=0:0", false),
            (Kind::Store, "Redis server v=7.0.15 sha=0:0", true),
            (Kind::Store, "Valkey server v=7.2.5 sha=0:0", false),
            (Kind::Store, "Valkey server v=9.1.2 sha=0:0", true),
        ] {
            let version = Version::parse(kind, text).unwrap();
            assert_eq!(version.is_recent(), is_recent, "{text}");
        }
        assert_eq!(Version::parse(Kind::Nats, "Redis server v=7.0.15"), None);
        assert_eq!(Version::parse(Kind::Nats, ""), None);
    }

    /// One test for all that runs a program which it wrote: a copy of this process that is
    /// about to become another program holds a file open for writing for a moment, and the
    /// kernel refuses to run the file meanwhile.
    #[test]
    fn an_old_program_is_passed_over_on_the_path_and_refused_where_it_was_given() {
        let (old, recent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old_nats = fake(old.path(), "nats-server", "nats-server: v2.9.10");
        let recent_nats = fake(recent.path(), "nats-server", "nats-server: v2.10.29");
        let path = env::join_paths([old.path(), recent.path()]).unwrap();
        assert_eq!(find_on(Kind::Nats, &path).unwrap(), recent_nats);
        let error = find_on(Kind::Nats, old.path().as_os_str())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is nats-server 2.9") && error.contains("scripts/run"),
            "{error}"
        );
        assert!(find(Kind::Nats, Some(&old_nats)).is_err());
        assert!(find(Kind::Nats, Some(&old.path().join("nothing"))).is_err());
        let store = fake(recent.path(), "any-name", "Redis server v=7.0.0 sha=0");
        assert_eq!(find(Kind::Store, Some(&store)).unwrap(), store);
    }
}
