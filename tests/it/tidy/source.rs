//! The project's own text files, and which of their lines are what.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are made, not written.
const FOLDERS_SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// One file.
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    pub lines: Vec<Line>,
}

/// One line of a file.
pub struct Line {
    /// From 1.
    pub number: usize,
    pub text: String,
    /// True inside `#[cfg(test)]`, and for all of a file that is only tests.
    pub is_test: bool,
}

impl Source {
    /// Every text file of the project.
    pub fn all() -> Vec<Source> {
        let mut sources = Vec::new();
        read_folder(&Source::root(), &mut sources);
        let test_files: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
        for source in &mut sources {
            let is_test = |file: &String| {
                // The file itself, or a module below it.
                let folder = file.trim_end_matches(".rs");
                let rest = source.path.strip_prefix(folder);
                rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            };
            if test_files.iter().any(is_test) {
                for line in &mut source.lines {
                    line.is_test = true;
                }
            }
        }
        sources
    }

    pub fn root() -> PathBuf {
        env!("CARGO_MANIFEST_DIR").into()
    }

    pub fn new(path: &str, text: &str) -> Source {
        let mut source = Source {
            path: path.to_owned(),
            lines: Vec::new(),
        };
        let mut test_end: Option<String> = None;
        let mut is_attributed = false;
        for (index, text) in text.lines().enumerate() {
            let indentation = &text[..text.len() - text.trim_start().len()];
            if text.trim() == "#[cfg(test)]" {
                is_attributed = true;
            } else if is_attributed && text.ends_with('{') && test_end.is_none() {
                test_end = Some(format!("{indentation}}}"));
            }
            source.lines.push(Line {
                number: index + 1,
                text: text.to_owned(),
                is_test: is_attributed || test_end.is_some() || path.starts_with("tests/"),
            });
            if test_end.as_deref() == Some(text) {
                test_end = None;
            }
            is_attributed &= text.trim_start().starts_with("#[");
        }
        source
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Rust below `src`, where the rules for the product hold.
    pub fn is_product(&self) -> bool {
        self.is_rust() && self.path.starts_with("src/")
    }

    /// The module directly below the crate that this file belongs to; none for `main.rs` and
    /// `lib.rs`.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module = inside.split(['/', '.']).next()?;
        (self.is_rust() && module != "main" && module != "lib").then_some(module)
    }

    /// The files that this one declares as modules for tests only.
    fn test_modules(&self) -> Vec<String> {
        let (folder, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let folder = match file {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
        };
        let lines = self.lines.iter().filter(|line| line.is_test);
        let names = lines.filter_map(|line| {
            let declared = line.text.trim().strip_prefix("mod ")?;
            declared.strip_suffix(';')
        });
        names.map(|name| format!("{folder}/{name}.rs")).collect()
    }
}

impl Line {
    /// The line without a comment that ends it; empty for a whole line of comment.
    pub fn code(&self) -> &str {
        let is_url = |start: usize| self.text[..start].ends_with(':');
        match self.text.find("//") {
            Some(start) if !is_url(start) => &self.text[..start],
            _ => &self.text,
        }
    }

    pub fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with("//")
    }
}

fn read_folder(folder: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).expect("a folder of the project");
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if FOLDERS_SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if path.is_dir() {
            read_folder(&path, sources);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(Source::root()).expect("below the root");
            sources.push(Source::new(&path.display().to_string(), &text));
        }
    }
}
