//! `catchup publish`: one event from the command line.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{UsageError, process};
use crate::bus::{self, Bus, BusError};
use crate::config::{Resolved, Role, Settings, redact_url};
use crate::event::{Address, Event, Limits};

/// How long connecting may take, whatever the servers do.
const CONNECT_SECONDS_MAX: Duration = Duration::from_secs(6);
/// How long the acknowledgement may take.
const ACKNOWLEDGEMENT_SECONDS_MAX: Duration = Duration::from_secs(10);

/// Flags of `catchup publish`.
#[derive(clap::Args)]
#[command(after_help = "Example: catchup publish --type new_post --to ann,bob --data '{\"n\":1}'")]
pub struct PublishArguments {
    /// Type of the event, for example new_post
    #[arg(long = "type", value_name = "TYPE")]
    event_type: String,
    /// Ordering key, usually the entity's id: events with one key keep their order
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    key: Option<String>,
    /// Users who get it, comma-separated [default: everyone]
    #[arg(long, value_name = "USERS", value_delimiter = ',')]
    to: Option<Vec<String>>,
    /// User who gets nothing, usually the one who caused it
    #[arg(long, value_name = "USER")]
    exclude: Option<String>,
    /// Id of the message; publishing it again within two minutes does nothing [default: a UUID]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// normal or high
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Seconds that the message waits for its users [default: CATCHUP_MESSAGE_TTL]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// For users who are connected only: never stored
    #[arg(long)]
    ephemeral: bool,
    /// While the user is away only the newest message with this key need be kept
    #[arg(long, value_name = "KEY")]
    collapse_key: Option<String>,
    /// The content, any JSON value of at most 64 KiB
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    data: String,
    #[command(flatten)]
    settings: Settings,
}

/// The body as contract §3 has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    data: &'a RawValue,
    /// Left out: everyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_user_ids: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude_user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ephemeral: bool,
}

/// An event that a worker would take.
#[derive(Debug)]
struct Publication {
    address: Address,
    message_id: String,
    body: String,
}

/// Publishes and prints the message's id and its sequence in the stream.
///
/// # Errors
///
/// An event that a worker would refuse, as [`UsageError`]; a server that does not answer, or does
/// not store it.
pub fn run(arguments: &PublishArguments) -> anyhow::Result<()> {
    let resolved = process::resolve(Role::Publish, &arguments.settings)?;
    let limits = Limits {
        ttl_max: resolved.message_ttl,
    };
    let publication = prepare(arguments, &limits)?;
    process::run(|shutdown| async move {
        tokio::select! {
            result = publish(&resolved, &publication) => result,
            () = shutdown.cancelled() => bail!("interrupted: the event may be published or not"),
        }
    })
}

/// Builds the event and checks it as a worker would.
fn prepare(arguments: &PublishArguments, limits: &Limits) -> Result<Publication, UsageError> {
    let refused =
        |error: &dyn std::fmt::Display| UsageError(format!("the event is refused: {error}"));
    let address = Address::new(&arguments.event_type, arguments.key.as_deref())
        .map_err(|refusal| refused(&refusal))?;
    let data = serde_json::from_str::<&RawValue>(&arguments.data).map_err(|error| {
        UsageError(format!(
            "--data is no JSON: {error}; a text needs quotes: --data '\"text\"'"
        ))
    })?;
    let body = Body {
        id: arguments.id.as_deref(),
        data,
        target_user_ids: arguments.to.as_deref(),
        exclude_user_id: arguments.exclude.as_deref(),
        ttl_seconds: arguments.ttl,
        priority: arguments.priority.as_deref(),
        collapse_key: arguments.collapse_key.as_deref(),
        ephemeral: arguments.ephemeral,
    };
    let body = serde_json::to_string(&body).map_err(|error| refused(&error))?;
    let event =
        Event::parse(&address, body.as_bytes(), limits).map_err(|refusal| refused(&refusal))?;
    let message_id = event.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    Ok(Publication {
        address,
        message_id,
        body,
    })
}

async fn publish(resolved: &Resolved, publication: &Publication) -> anyhow::Result<()> {
    let bus = connect(resolved).await?;
    let Publication {
        address,
        message_id,
        body,
    } = publication;
    let subject = bus.names.event(&address.event_type, address.key.as_deref());
    let mut headers = HeaderMap::new();
    // Printable, therefore without the line breaks that would make this panic.
    headers.insert("Nats-Msg-Id", message_id.as_str());
    let sending = async {
        let body = body.clone().into_bytes().into();
        bus.jetstream
            .publish_with_headers(subject, headers, body)
            .await?
            .await
    };
    let acknowledgement = tokio::time::timeout(ACKNOWLEDGEMENT_SECONDS_MAX, sending)
        .await
        .context("NATS does not answer: the event may be published or not")?
        .map_err(|error| match error.kind() {
            PublishErrorKind::StreamNotFound => anyhow!(
                "no stream takes the event: start a worker first, it makes the stream {}",
                bus.names.events_stream()
            ),
            _ => anyhow!("NATS did not store the event: {error}"),
        })?;
    if acknowledgement.stream != bus.names.events_stream() {
        bail!(
            "the stream {} took the event instead of {}: it will reach nobody; use another \
             CATCHUP_NAMESPACE",
            acknowledgement.stream,
            bus.names.events_stream()
        );
    }
    let repeated = if acknowledgement.duplicate {
        " (duplicate)"
    } else {
        ""
    };
    let sequence = acknowledgement.sequence;
    // Whoever closed standard output does not want to know; the event is published.
    let _ = writeln!(
        std::io::stdout(),
        "published {message_id} as sequence {sequence}{repeated}"
    );
    Ok(())
}

/// Connects with one attempt: a command line should fail rather than hang.
async fn connect(resolved: &Resolved) -> anyhow::Result<Bus> {
    let config = process::bus_config("publish", resolved);
    let give_up = CancellationToken::new();
    let reason = RefCell::new("no answer".to_owned());
    let connecting = bus::connect_reporting(&config, &give_up, |error| {
        *reason.borrow_mut() = error.to_owned();
        give_up.cancel();
    });
    let result = tokio::time::timeout(CONNECT_SECONDS_MAX, connecting).await;
    match result {
        Ok(Ok(bus)) => Ok(bus),
        Ok(Err(error @ BusError::Unsuitable(_))) => Err(error.into()),
        Ok(Err(_)) | Err(_) => {
            let urls: Vec<String> = resolved
                .nats_urls
                .iter()
                .map(|url| redact_url(url))
                .collect();
            let urls = urls.join(", ");
            let reason = reason.borrow();
            bail!("cannot connect to NATS at {urls}: {reason}; is CATCHUP_NATS_URL right?")
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn try_prepare(flags: &[&str]) -> Result<Publication, String> {
        let command = PublishArguments::augment_args(clap::Command::new("publish"));
        let matches = command
            .try_get_matches_from([&["publish"], flags].concat())
            .unwrap();
        let arguments = PublishArguments::from_arg_matches(&matches).unwrap();
        let limits = Limits {
            ttl_max: Duration::from_secs(60),
        };
        prepare(&arguments, &limits).map_err(|error| error.to_string())
    }

    #[test]
    fn the_body_is_the_contracts() {
        let publication = try_prepare(&[
            "--type",
            "new_post",
            "--to",
            "ann,7",
            "--data",
            "{\"a\": 1.0e2}",
        ])
        .unwrap();
        assert_eq!(
            publication.body,
            "{\"data\":{\"a\": 1.0e2},\"targetUserIds\":[\"ann\",\"7\"]}"
        );
        assert_eq!(publication.address, Address::new("new_post", None).unwrap());
        assert_eq!(publication.message_id.len(), 36, "a UUID");

        let flags = "--type a --key k --to ann --exclude bob --id i --priority high --ttl 60 \
            --ephemeral --collapse-key c --data -5";
        let publication = try_prepare(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            publication.body,
            "{\"id\":\"i\",\"data\":-5,\"targetUserIds\":[\"ann\"],\"excludeUserId\":\"bob\",\
             \"ttlSeconds\":60,\"priority\":\"high\",\"collapseKey\":\"c\",\"ephemeral\":true}"
        );
        assert_eq!(publication.address, Address::new("a", Some("k")).unwrap());
        assert_eq!(publication.message_id, "i");
    }

    #[test]
    fn a_bad_event_is_refused_before_anything_is_sent() {
        for (flags, named) in [
            ("--type a --to b --data {", "--data"),
            ("--type a --to b --data 1,\"targetUserIds\":null", "--data"),
            ("--type A --to b --data 1", "type: "),
            ("--type a.b --to b --data 1", "type: "),
            ("--type a --key b.c --to b --data 1", "key: "),
            ("--type a --to b,,c --data 1", "targetUserIds: "),
            ("--type a --to {b} --data 1", "targetUserIds: "),
            ("--type a --to b --exclude {b} --data 1", "excludeUserId: "),
            ("--type a --to b --id= --data 1", "id: "),
            ("--type a --to b --ttl 61 --data 1", "ttlSeconds: "),
            ("--type a --to b --ttl 0 --data 1", "ttlSeconds: "),
            ("--type a --to b --priority low --data 1", "priority: "),
            ("--type a --to b --collapse-key= --data 1", "collapseKey: "),
        ] {
            let error = try_prepare(&flags.split_whitespace().collect::<Vec<_>>()).unwrap_err();
            assert!(error.contains(named), "{flags}: {error}");
        }
    }
}
