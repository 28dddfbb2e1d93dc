//! The log: one line an event on standard output, as text or JSON.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-01-31T12:00:00.123456Z INFO catchup::gateway: the message field=value`
    Text,
    /// One object a line: `timestamp`, `level`, `target`, `message` and the fields.
    Json,
}

/// Installs the log of this process.
///
/// # Errors
///
/// A filter that [`parse_filter`] refuses, or a log that is installed already.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(filter)?)
        .with_ansi(false)
        // A closed standard output must not end the process, nor fill standard error.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.event_format(TextLine).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    }
    .map_err(|error| error.to_string())
}

/// Reads a filter: a level, or directives such as `warn,catchup::gateway=debug`.
///
/// # Errors
///
/// Says which directive is wrong. A single word that is no level is refused as well: it would
/// mean "everything of a module of that name", and a misspelt level would silence the process.
pub fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    for directive in text.split(',').map(str::trim) {
        let is_word = !directive.is_empty() && !directive.contains(['=', ':', '[', '{']);
        if is_word && directive.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "`{directive}` is no level: write off, error, warn, info, debug or trace, or \
                 MODULE=LEVEL"
            ));
        }
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| error.to_string())
}

/// The text format: spans are left out, and the message stands as it was logged, so that a line
/// can be searched for.
struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        write!(writer, " {} {}: ", metadata.level(), metadata.target())?;
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "{}{}", line.message, line.fields)
    }
}

/// The message and the other fields, each ` name=value`, without line breaks.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            push_one_line(&mut self.message, &format!("{value:?}"));
        } else {
            self.fields.push_str(&format!(" {}=", field.name()));
            push_one_line(&mut self.fields, &format!("{value:?}"));
        }
    }
}

/// Appends `text` with control characters escaped, so that nothing a client sent can end a line
/// and forge the next.
fn push_one_line(line: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() {
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_text_line_ends_with_the_message_as_it_was_logged() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(TextLine)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("connection", user = 7).entered();
            tracing::info!("Delivered {} offline messages to user {}", 5, 12345);
            tracing::warn!(reason = %"two\nlines", count = 2, "left \"it\"\r\nout");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].ends_with("::tests: Delivered 5 offline messages to user 12345"));
        assert!(
            lines[0].contains("Z INFO catchup::telemetry::logging"),
            "{text}"
        );
        assert!(
            lines[1].ends_with(": left \"it\"\\r\\nout reason=two\\nlines count=2"),
            "{text}"
        );
    }

    #[test]
    fn filters_are_read_or_refused() {
        for good in [
            "info",
            "WARN",
            "off",
            "warn,catchup=debug",
            "catchup::gateway=trace, info",
        ] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["infos", "verbose", "catchup", "catchup=loud", "info,loud"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
        assert!(
            parse_filter("verbose")
                .unwrap_err()
                .contains("`verbose` is no level")
        );
    }
}
