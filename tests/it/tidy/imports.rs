//! Who may import whom: the table of `src/lib.rs`, kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::rules::Fault;
use super::source::Source;

/// What each module may import, read from the table in `src/lib.rs`. `command` may import all,
/// and `config` what is not above it.
static MAY_IMPORT: LazyLock<BTreeMap<String, BTreeSet<String>>> = LazyLock::new(|| {
    let map = std::fs::read_to_string(Source::root().join("src/lib.rs")).expect("the map");
    let rows = map.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | [`")?.split('|').map(str::trim);
        let module = cells.next()?.split('`').next()?;
        Some((module.to_owned(), cells.nth(1)?.to_owned()))
    });
    let rows: Vec<(String, String)> = rows.collect();
    let all: BTreeSet<String> = rows.iter().map(|(module, _)| module.clone()).collect();
    let rows = rows.into_iter().map(|(module, cell)| {
        let mut allowed: BTreeSet<String> = match module.as_str() {
            "command" => all.clone(),
            "config" => all
                .iter()
                .filter(|name| *name != "command")
                .cloned()
                .collect(),
            _ => cell
                .split(", ")
                .filter(|name| all.contains(*name))
                .map(str::to_owned)
                .collect(),
        };
        allowed.insert(module.clone());
        (module, allowed)
    });
    rows.collect()
});

/// The imports that the table does not allow.
pub fn imports(source: &Source) -> Vec<Fault> {
    let Some(module) = source.module() else {
        return Vec::new();
    };
    let Some(allowed) = MAY_IMPORT.get(module) else {
        return vec![(1, format!("`{module}` is not in the table of src/lib.rs"))];
    };
    let mut faults = Vec::new();
    let code: Vec<&str> = source.lines.iter().map(|line| line.code()).collect();
    let code = code.join("\n");
    for (start, _) in code.match_indices("crate::") {
        if code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        for imported in first_names(&code[start + "crate::".len()..]) {
            // Other names at the root are the crate's own macros and re-exports.
            if MAY_IMPORT.contains_key(imported) && !allowed.contains(imported) {
                faults.push((line, format!("`{module}` may not import `{imported}`")));
            }
        }
    }
    faults
}

/// The first names of a path or of a `{group, of::paths}`.
fn first_names(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![first_name(path)];
    };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                names.push(first_name(&group[start..index]));
                start = index + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> &str {
    let path = path.trim_start();
    let end = path.find(|next: char| !next.is_alphanumeric() && next != '_');
    &path[..end.unwrap_or(path.len())]
}
