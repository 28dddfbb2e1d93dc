//! What is wrong with a command line, in one line.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A flag's value that makes no sense: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The problem and where to read on. Values are not shown: they may be secrets.
pub(super) fn describe(error: &clap::Error, command: Option<&str>) -> String {
    let problem = problem(error);
    match command {
        Some(command) => format!("{problem}; `catchup {command} --help` lists the flags"),
        None => format!("{problem}; `catchup --help` lists the commands"),
    }
}

fn problem(error: &clap::Error) -> String {
    let argument = context(error, ContextKind::InvalidArg);
    match error.kind() {
        // A value without its flag, or one that a typing error tore off.
        ErrorKind::UnknownArgument if !argument.starts_with('-') => {
            "there is a value that belongs to no flag".to_owned()
        }
        ErrorKind::UnknownArgument => match context(error, ContextKind::SuggestedArg) {
            suggestion if suggestion.is_empty() => format!("{argument} is no flag"),
            suggestion => format!("{argument} is no flag, did you mean {suggestion}?"),
        },
        ErrorKind::InvalidSubcommand => {
            let command = context(error, ContextKind::InvalidSubcommand);
            match context(error, ContextKind::SuggestedSubcommand) {
                suggestion if suggestion.is_empty() => format!("{command:?} is no command"),
                suggestion => format!("{command:?} is no command, did you mean {suggestion}?"),
            }
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "which command? dev, gateway, worker, publish or listen".to_owned()
        }
        ErrorKind::MissingRequiredArgument => format!("missing {argument}"),
        ErrorKind::InvalidValue => format!("{argument} needs a value"),
        ErrorKind::TooManyValues => format!("{argument} takes no value"),
        ErrorKind::ArgumentConflict => match context(error, ContextKind::PriorArg) {
            prior if prior == argument => format!("{argument} is given more than once"),
            prior => format!("{argument} cannot go together with {prior}"),
        },
        ErrorKind::ValueValidation => match std::error::Error::source(error) {
            Some(source) => format!("{argument} has a wrong value: {source}"),
            None => format!("{argument} has a wrong value"),
        },
        kind => kind.to_string(),
    }
}

/// One piece of what the parser knows about the error; several are joined by commas.
fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}
