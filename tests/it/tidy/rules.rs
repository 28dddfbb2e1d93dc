//! The rules, each with what it must find and what it must let pass.

use super::imports::imports;
use super::source::{Line, Source};

/// A fault in a file: its line and what is wrong.
pub type Fault = (usize, String);

pub struct Rule {
    pub name: &'static str,
    pub check: fn(&Source) -> Vec<Fault>,
    /// Files (path and text) in which the rule must find a fault.
    pub planted: &'static [(&'static str, &'static str)],
    /// Files that look alike and are fine.
    pub fine: &'static [(&'static str, &'static str)],
}

/// A file longer than this has more than one subject.
const FILE_LINES_MAX: usize = 600;
/// A function longer than this is not seen at once.
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARACTERS_MAX: usize = 120;

pub const RULES: &[Rule] = &[
    Rule {
        name: "imports go down the table of src/lib.rs",
        check: imports,
        planted: &[
            ("src/protocol/frame.rs", "use crate::mailbox::Store;"),
            ("src/session/mod.rs", "use crate::{protocol::Cursor, bus};"),
            ("src/worker/mod.rs", "fn f() { crate::gateway::run() }"),
            ("src/nodes/lease.rs", "use crate::config::Settings;"),
            ("src/surprise.rs", "fn f() {}"),
        ],
        fine: &[
            (
                "src/session/mod.rs",
                "use crate::{\n    protocol::{Cursor, Lane},\n    session::Effect,\n};",
            ),
            ("src/command/dev.rs", "use crate::gateway::run;"),
            ("src/protocol/frame.rs", "/// See [`crate::mailbox`]."),
        ],
    },
    Rule {
        name: "pure modules know no network",
        check: pure_modules,
        planted: &[("src/session/mod.rs", "use tokio::time::sleep;")],
        fine: &[("src/gateway/mod.rs", "use tokio::time::sleep;")],
    },
    Rule {
        name: "a file has at most 600 lines, a line at most 120 characters",
        check: file_size,
        planted: &[("src/event.rs", LONG_FILE), ("src/event.rs", LONG_LINE)],
        fine: &[("Cargo.lock", LONG_FILE)],
    },
    Rule {
        name: "a function has at most 70 lines",
        check: function_size,
        planted: &[("src/event.rs", LONG_FUNCTION)],
        fine: &[
            ("src/event.rs", "fn f() {\n}\n"),
            ("src/event.rs", "trait T {\n    fn f();\n}\n"),
        ],
    },
    Rule {
        name: "a Rust file opens with what it is for",
        check: opening,
        planted: &[("src/event.rs", "use std::fmt;")],
        fine: &[("src/event.rs", "//! Events.")],
    },
    Rule {
        name: "a Lua file opens with its contract",
        check: lua_contract,
        planted: &[
            ("src/mailbox/scripts/x.lua", "local x = 1"),
            ("src/mailbox/scripts/x.lua", "-- Does.\nlocal x = ARGV[1]"),
            (
                "src/mailbox/scripts/x.lua",
                "-- Does.\n-- KEYS: a.\n-- ARGV: b.\n-- Returns c.\n\n-- Atomic: ARGV[1]",
            ),
        ],
        fine: &[(
            "src/mailbox/scripts/x.lua",
            "-- Does.\n-- KEYS: a.\n-- ARGV: b.\n-- Returns c.\n-- Atomic.\nf(ARGV[1])",
        )],
    },
    Rule {
        name: "no unfinished work, no history, no traces of a workplace",
        check: words,
        planted: &[
            ("src/event.rs", concat!("// TO", "DO: later")),
            ("README.md", concat!("FIX", "ME")),
            ("src/event.rs", concat!("    to", "do!()")),
            ("scripts/test", concat!("cd /wo", "rk/main")),
            ("src/event.rs", concat!("// as it was prev", "iously")),
        ],
        fine: &[("src/event.rs", "let worker = 1;")],
    },
    Rule {
        name: "no unwrap; expect says which invariant holds",
        check: panics,
        planted: &[
            ("src/event.rs", "let x = y.unwrap();"),
            ("src/event.rs", "let x = y.expect(\"\");"),
            ("src/event.rs", "let x = y.expect(\"some\");"),
        ],
        fine: &[
            (
                "src/event.rs",
                "#[cfg(test)]\nmod tests {\n    let x = y.unwrap();\n}\n",
            ),
            ("src/event.rs", "let x = y.expect(\"checked above\");"),
            ("src/event.rs", "let x = y.unwrap_or_default();"),
        ],
    },
    Rule {
        name: "only commands print, the rest logs",
        check: printing,
        planted: &[
            ("src/worker/mod.rs", "println!(\"x\");"),
            ("src/bus/mod.rs", "dbg!(1);"),
        ],
        fine: &[("src/command/listen.rs", "println!(\"x\");")],
    },
    Rule {
        name: "unsafe says why it is safe",
        check: unsafe_reason,
        planted: &[("src/command/dev.rs", "let x = 1;\nunsafe { f() };")],
        fine: &[(
            "src/command/dev.rs",
            "// SAFETY: f has no conditions.\nunsafe { f() };",
        )],
    },
    Rule {
        name: "an ignored test says when it runs",
        check: ignored,
        planted: &[("tests/it/x.rs", "#[ignore]\nfn f() {}")],
        fine: &[(
            "tests/it/x.rs",
            "#[ignore = \"needs a browser\"]\nfn f() {}",
        )],
    },
    Rule {
        name: "a test that sleeps says why",
        check: sleeps,
        planted: &[(
            "tests/it/live.rs",
            "let x = 1;\ntokio::time::sleep(wait).await;",
        )],
        fine: &[
            (
                "tests/it/live.rs",
                "// The message must expire.\ntokio::time::sleep(wait).await;",
            ),
            (
                "tests/it/support/mod.rs",
                "tokio::time::sleep(POLL_INTERVAL).await;",
            ),
        ],
    },
];

const LONG_LINE: &str = concat!(
    "//! Sixty characters of text and sixty more of it make a line that nobody reads to its ",
    "very end without scrolling sideways."
);
const LONG_FILE: &str = text(&filled::<601>(b"", b""));
const LONG_FUNCTION: &str = text(&filled::<80>(b"fn f() {", b"}\n"));

/// Line breaks with something before and after.
const fn filled<const SIZE: usize>(head: &[u8], tail: &[u8]) -> [u8; SIZE] {
    let mut bytes = [b'\n'; SIZE];
    let mut index = 0;
    while index < head.len() {
        bytes[index] = head[index];
        index += 1;
    }
    index = 0;
    while index < tail.len() {
        bytes[SIZE - tail.len() + index] = tail[index];
        index += 1;
    }
    bytes
}

const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("ASCII"),
    }
}

fn pure_modules(source: &Source) -> Vec<Fault> {
    const PURE: [&str; 3] = ["event", "protocol", "session"];
    const NETWORK: [&str; 5] = ["tokio", "redis::", "async_nats", "hyper", "std::net"];
    if !source.module().is_some_and(|module| PURE.contains(&module)) {
        return Vec::new();
    }
    find(source, |line| {
        NETWORK.into_iter().find(|name| line.code().contains(name))
    })
}

fn file_size(source: &Source) -> Vec<Fault> {
    if source.path.ends_with(".lock") || source.path == "LICENSE" {
        return Vec::new();
    }
    let mut faults = Vec::new();
    let lines = source.lines.len();
    if lines > FILE_LINES_MAX {
        faults.push((lines, format!("{lines} lines")));
    }
    if source.is_rust() {
        let length = |text: &str| text.chars().count();
        faults.extend(find(source, |line| {
            // The row of a table cannot be broken.
            let is_row = line.text.starts_with("//! |");
            (length(&line.text) > LINE_CHARACTERS_MAX && !is_row).then_some("a long line")
        }));
    }
    faults
}

fn function_size(source: &Source) -> Vec<Fault> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (index, line) in source.lines.iter().enumerate() {
        let code = line.code();
        let declaration = code.trim_start();
        let mut words = declaration.split_whitespace().take(5);
        let is_function = words.any(|word| word == "fn") && !code.contains(['"', '=']);
        // A body on the same line, or none.
        if !is_function || code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let indentation = &code[..code.len() - declaration.len()];
        let end = format!("{indentation}}}");
        let rest = &source.lines[index..];
        let no_body = format!("{indentation})");
        for (count, line) in rest.iter().enumerate() {
            if line.text.starts_with(&no_body) && line.text.ends_with(';') {
                break;
            }
            if line.text == end {
                if count + 1 > FUNCTION_LINES_MAX {
                    faults.push((rest[0].number, format!("{} lines", count + 1)));
                }
                break;
            }
        }
    }
    faults
}

fn opening(source: &Source) -> Vec<Fault> {
    let opens = source
        .lines
        .first()
        .is_some_and(|line| line.text.starts_with("//! "));
    match source.is_rust() && !opens {
        true => vec![(1, "no `//!` line first".to_owned())],
        false => Vec::new(),
    }
}

fn lua_contract(source: &Source) -> Vec<Fault> {
    // A part that scripts share takes no arguments: it only says what it is for.
    let is_script = source.lines.iter().any(|line| line.text.contains("ARGV["));
    let parts: &[&str] = match is_script {
        _ if !source.path.ends_with(".lua") => return Vec::new(),
        true => &["KEYS:", "ARGV:", "Returns", "Atomic"],
        false => &["-- "],
    };
    let comment = source
        .lines
        .iter()
        .take_while(|line| line.text.starts_with("--"));
    let comment: Vec<&str> = comment.map(|line| line.text.as_str()).collect();
    let comment = comment.join("\n");
    let missing = parts.iter().filter(|part| !comment.contains(**part));
    missing
        .map(|part| (1, format!("the opening does not say {part}")))
        .collect()
}

fn words(source: &Source) -> Vec<Fault> {
    // In pieces, since this file is read as well.
    const WORDS: [&str; 13] = [
        concat!("To be ", "written"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("prev", "iously"),
        concat!("/wo", "rk/"),
        concat!("/tmp/", "plan"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.", "debian.org"),
        concat!("static.crates", ".io"),
    ];
    if source.path.ends_with(".lock") {
        return Vec::new();
    }
    find(source, |line| {
        WORDS.into_iter().find(|word| line.text.contains(word))
    })
}

fn panics(source: &Source) -> Vec<Fault> {
    if !source.is_product() {
        return Vec::new();
    }
    find(source, |line| {
        let code = line.code();
        if line.is_test {
            return None;
        }
        if code.contains(".unwrap()") || code.contains(".unwrap_err()") {
            return Some("unwrap");
        }
        // Two words at least: "not poisoned", "checked above".
        let (_, reason) = code.split_once(".expect(")?;
        let reason = reason.split('"').nth(1).unwrap_or_default();
        (!reason.trim().contains(' ')).then_some("expect without a reason")
    })
}

fn printing(source: &Source) -> Vec<Fault> {
    const PRINTING: [&str; 5] = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("];
    if !source.is_product() || matches!(source.module(), Some("command") | None) {
        return Vec::new();
    }
    find(source, |line| {
        let mut calls = PRINTING.into_iter();
        calls.find(|call| !line.is_test && line.code().contains(call))
    })
}

fn unsafe_reason(source: &Source) -> Vec<Fault> {
    let keyword = concat!("un", "safe ");
    if !source.is_rust() || source.path.starts_with("tests/it/tidy/") {
        return Vec::new();
    }
    let is_unsafe = |index: usize| source.lines[index].code().contains(keyword);
    let lines = (0..source.lines.len()).filter(|&index| {
        let comments = source.lines[..index]
            .iter()
            .rev()
            .take_while(|line| line.is_comment());
        is_unsafe(index)
            && !comments
                .into_iter()
                .any(|line| line.text.contains("// SAFETY: "))
    });
    lines
        .map(|index| (index + 1, "no `// SAFETY:` comment above".to_owned()))
        .collect()
}

fn ignored(source: &Source) -> Vec<Fault> {
    find(source, |line| {
        (line.text.trim() == "#[ignore]").then_some("no reason")
    })
}

fn sleeps(source: &Source) -> Vec<Fault> {
    const FOOTING: [&str; 2] = ["tests/it/support/", "tests/it/tidy/"];
    let is_footing = FOOTING.iter().any(|folder| source.path.starts_with(folder));
    if !source.path.starts_with("tests/") || is_footing {
        return Vec::new();
    }
    let sleeps = |index: usize| source.lines[index].code().contains("sleep(");
    let says_why = |index: usize| index > 0 && source.lines[index - 1].is_comment();
    let lines = (0..source.lines.len()).filter(|&index| sleeps(index) && !says_why(index));
    lines
        .map(|index| (index + 1, "no comment above".to_owned()))
        .collect()
}

/// The lines for which `look` names a fault.
fn find<'a>(source: &Source, look: impl Fn(&Line) -> Option<&'a str>) -> Vec<Fault> {
    let faults = source.lines.iter().map(|line| (line.number, look(line)));
    faults
        .filter_map(|(number, fault)| Some((number, fault?.to_owned())))
        .collect()
}
