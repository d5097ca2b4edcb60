//! `[approvals]`: how long asks wait, and how many of them. A rule's own `timeout` is `rule`'s business.

use std::time::Duration;

use agentguard_common::profile::Approvals;

use super::reader::{Reader, Value};

/// The keys of `[approvals]`.
pub(in crate::policy) const KEYS: [&str; 3] = ["timeout", "cooldown", "max_pending"];

/// The longest that a question may wait for an answer, or a refusal may stand.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The most questions of one agent that may wait at once: a person can't tell more apart.
const MAX_PENDING: u32 = 64;

pub(super) fn read(reader: &mut Reader, value: Option<&Value>) -> Approvals {
    let mut approvals = Approvals::DEFAULT;
    let Some(table) = value.and_then(|value| reader.table("approvals", value)) else {
        return approvals;
    };
    for (key, value) in table.iter() {
        match key.get_ref().as_ref() {
            "timeout" => {
                if let Some(ms) = read_time(reader, "timeout", value, 1) {
                    approvals.timeout_ms = ms;
                }
            }
            "cooldown" => {
                if let Some(ms) = read_time(reader, "cooldown", value, 0) {
                    approvals.cooldown_ms = ms;
                }
            }
            "max_pending" => {
                let number = value
                    .get_ref()
                    .as_integer()
                    .and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok())
                    .filter(|number| (1..=MAX_PENDING).contains(number));
                match number {
                    Some(number) => approvals.max_pending = number,
                    None => reader.error(
                        value.span(),
                        "bad-value",
                        "`max_pending` is how many questions of one agent may wait at once",
                        format!("write a number from 1 to {MAX_PENDING}"),
                    ),
                }
            }
            name => reader.unknown_key(name, key.span(), "[approvals]", &KEYS),
        }
    }
    approvals
}

/// A duration of at least `least_ms` milliseconds, in milliseconds.
fn read_time(reader: &mut Reader, key: &str, value: &Value, least_ms: u128) -> Option<u32> {
    let text = reader.string(key, value)?;
    let ms = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration <= MAX_TIME && duration.as_millis() >= least_ms)
        .and_then(|duration| u32::try_from(duration.as_millis()).ok());
    if ms.is_none() {
        reader.error(
            value.span(),
            "bad-value",
            format!("`{key}` is no duration that [approvals] can have"),
            "write a duration such as \"60s\" or \"10m\", at most \"24h\"",
        );
    }
    ms
}
