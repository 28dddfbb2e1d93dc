//! Why an event was refused: the header `Catchup-Reason`.

use std::fmt::{self, Display};

/// Most bytes of a reason (contract §3).
pub const REFUSAL_BYTES_MAX: usize = 200;
/// Most bytes of a field's name in a reason; publishers can send names of any length.
const FIELD_BYTES_MAX: usize = 80;

/// A reason as `field: what is wrong`: one line of printable ASCII, at most
/// [`REFUSAL_BYTES_MAX`] bytes. It may hold what the publisher sent, cleaned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}")]
pub struct Refusal {
    line: String,
}

impl Refusal {
    /// `field` is a field of the body, or `type`, `key` or `body`.
    pub fn new(field: &str, problem: impl Display) -> Refusal {
        let mut line = String::new();
        let mut name = Ascii::new(&mut line, FIELD_BYTES_MAX, '!');
        // Writing into a string cannot fail.
        let _ = fmt::Write::write_str(&mut name, if field.is_empty() { "\"\"" } else { field });
        let mut text = Ascii::new(&mut line, REFUSAL_BYTES_MAX, ' ');
        let _ = fmt::Write::write_fmt(&mut text, format_args!(": {problem}"));
        Refusal { line }
    }
}

/// Appends text up to a length, with `?` for each character that is not ASCII from `first` to `~`.
struct Ascii<'a> {
    line: &'a mut String,
    bytes_max: usize,
    first: char,
}

impl Ascii<'_> {
    fn new(line: &mut String, bytes_max: usize, first: char) -> Ascii<'_> {
        Ascii {
            line,
            bytes_max,
            first,
        }
    }
}

impl fmt::Write for Ascii<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.line.len() == self.bytes_max {
                // What was cut off must be seen to be missing.
                self.line.truncate(self.bytes_max - 3);
                self.line.push_str("...");
                break;
            }
            let is_clean = (self.first..='~').contains(&character);
            self.line.push(if is_clean { character } else { '?' });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_ascii_line_that_begins_with_the_field() {
        let reason = |field: &str, problem: &str| Refusal::new(field, problem).to_string();
        assert_eq!(reason("data", "is missing"), "data: is missing");
        assert_eq!(reason("", "unknown field"), "\"\": unknown field");
        assert_eq!(reason("a\r\nb é", "c\nd"), "a??b??: c?d");
        let long = reason(&"x".repeat(10_000), &"y".repeat(10_000));
        assert_eq!(long.len(), REFUSAL_BYTES_MAX);
        assert!(long.starts_with("xxx") && long.contains("x...: yyy") && long.ends_with("y..."));
        assert_eq!(
            reason(&"x".repeat(80), "z"),
            format!("{}: z", "x".repeat(80))
        );
    }
}
