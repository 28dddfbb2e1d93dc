//! Style that matters is a test: who may import whom, how long things may be, which words and
//! calls are out. Every rule has a planted fault that it must find.
//!
//! A rule looks at one file and returns its faults, each with a line number. The rules and
//! their reasons: `tidy/rules.rs`.

mod imports;
mod rules;
mod source;

use rules::RULES;
use source::Source;

#[test]
fn every_file_is_tidy() {
    let sources = Source::all();
    assert!(sources.len() > 30, "the files of the project are not found");
    let mut faults = Vec::new();
    for rule in RULES {
        for source in &sources {
            for (line, fault) in (rule.check)(source) {
                faults.push(format!("{}:{line}: {}: {fault}", source.path, rule.name));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_rule_finds_its_planted_fault() {
    for rule in RULES {
        assert!(
            !rule.planted.is_empty(),
            "{} has no planted fault",
            rule.name
        );
        for (path, text) in rule.planted {
            let faults = (rule.check)(&Source::new(path, text));
            assert!(
                !faults.is_empty(),
                "{} finds nothing in {path}: {text}",
                rule.name
            );
        }
        for (path, text) in rule.fine {
            let faults = (rule.check)(&Source::new(path, text));
            assert!(
                faults.is_empty(),
                "{} in {path}: {text}: {faults:?}",
                rule.name
            );
        }
    }
}

#[test]
fn the_license_is_there_and_is_the_one_the_manifest_names() {
    let root = Source::root();
    let license = std::fs::read_to_string(root.join("LICENSE")).expect("a LICENSE");
    assert!(license.contains("Apache License") && license.contains("Version 2.0"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    assert!(manifest.contains("license = \"Apache-2.0\""));
}
