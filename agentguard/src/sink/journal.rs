//! The end of the log as the journal knows it: whoever takes lines off the log's end would have to change the journal too.

use std::{io, path::Path, process::Command};

use blake3::Hash;
use serde::Deserialize;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::{log::Head, verify};

/// What the messages are told apart by.
pub const TARGET: &str = "agentguard::log_head";
/// The kind of message, as `journalctl MESSAGE_ID=` takes it.
pub const MESSAGE_ID: &str = "4dd8f50bf5a147d2b7eb8f038a1cae85";

/// Carries [`tell`]'s messages to the journal. None where there is none.
pub fn layer<S>() -> Option<impl Layer<S>>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(None)
            .with_syslog_identifier("agentguard".to_owned())
            .with_filter(filter_fn(|of| of.target() == TARGET)),
    )
}

/// Tells where the log at `path` ends. Where there is no journal it is said among the other messages.
pub fn tell(path: &Path, head: Head) {
    tracing::info!(
        target: TARGET,
        MESSAGE_ID,
        AGENTGUARD_LOG = %path.display(),
        AGENTGUARD_SEQ = head.seq,
        AGENTGUARD_HASH = %head.hash,
        "the log's line {} has the hash {}",
        head.seq,
        head.hash
    );
}

/// An entry of the journal, as `journalctl --output=json` writes it: every field is a string.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct Entry {
    agentguard_seq: String,
    agentguard_hash: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    micros: String,
}

/// What the journal was told by root of the log at `path`, perhaps only since a time that `journalctl` understands.
pub fn told(path: &Path, since: Option<&str>) -> io::Result<Vec<verify::Known>> {
    let mut command = Command::new("journalctl");
    command
        .args(["--quiet", "--no-pager", "--output=json"])
        .args(since.map(|since| format!("--since={since}")))
        .arg(format!("MESSAGE_ID={MESSAGE_ID}"))
        .arg("_UID=0")
        .arg(format!("AGENTGUARD_LOG={}", path.display()));
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().to_owned()));
    }
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(known)
        .collect()
}

fn known(line: &[u8]) -> io::Result<verify::Known> {
    let wrong = |what: &str| io::Error::other(format!("an entry without {what}"));
    let entry: Entry = serde_json::from_slice(line)?;
    let seq = entry.agentguard_seq.parse();
    let hash = Hash::from_hex(&entry.agentguard_hash);
    let micros = entry.micros.parse();
    let time = micros
        .ok()
        .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    Ok(verify::Known {
        head: Head {
            seq: seq.map_err(|_| wrong("a number"))?,
            hash: hash.map_err(|_| wrong("a hash"))?,
        },
        by: format!("the journal of {}", time.ok_or_else(|| wrong("a time"))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_the_journal_is_understood() {
        let hash = blake3::hash(b"x");
        let line = format!(
            r#"{{"__REALTIME_TIMESTAMP":"1795852800000000","AGENTGUARD_SEQ":"7","AGENTGUARD_HASH":"{hash}","MESSAGE":"m"}}"#
        );
        let known = known(line.as_bytes()).expect("understood");
        assert_eq!(known.head, Head { seq: 7, hash });
        assert_eq!(known.by, "the journal of 2026-11-28T08:00:00Z");
        super::known(b"{}").expect_err("no entry");
    }
}
