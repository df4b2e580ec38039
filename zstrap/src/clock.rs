//! The clock of this machine, and the times that people give to commands.
//!
//! In: `90d`, `2027-02-20`, `2027-02-20T08:00:00Z`. Out: [`Timestamp`]s. Failure: a text that is neither, a
//! time that has passed.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use zstrap_formats::time::{Timestamp, parse_span};

/// Now, by the clock of this machine.
///
/// # Errors
/// A clock before 1970 or after 9999.
pub fn now() -> anyhow::Result<Timestamp> {
    let since =
        SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock: it is before 1970")?;
    Timestamp::from_unix(since.as_secs()).context("reading the clock")
}

/// When something ends: after a span, or at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Seconds after it was made.
    After(u64),
    /// At this time.
    At(Timestamp),
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = parse_span(text) {
            return Ok(Expiry::After(seconds));
        }
        // A date alone means its first second.
        let time = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
        let wrong =
            || format!("{text:?} is neither a span (90d, 12h, 30m) nor a time (2027-02-20T08:00:00Z)");
        time.parse().map(Expiry::At).map_err(|_| wrong())
    }
}

impl Expiry {
    /// The last good second of what is made at `created`.
    ///
    /// # Errors
    /// An end that is not after `created`.
    pub fn from(self, created: Timestamp) -> anyhow::Result<Timestamp> {
        let end = match self {
            Expiry::After(seconds) => created.plus(seconds),
            Expiry::At(time) => time,
        };
        ensure!(end > created, "expiry {end} is not after now, {created}");
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_spans_dates_and_times() {
        assert_eq!("12h".parse(), Ok(Expiry::After(43_200)));
        assert_eq!("30m".parse(), Ok(Expiry::After(1800)));
        let midnight: Expiry = "2027-02-20".parse().unwrap();
        assert_eq!(midnight, "2027-02-20T00:00:00Z".parse().unwrap());
        for wrong in ["", "90", "soon", "2027-02-30", "2027-02-20T08:00"] {
            assert!(wrong.parse::<Expiry>().unwrap_err().contains("neither"), "{wrong}");
        }
    }

    #[test]
    fn refuses_an_end_that_has_passed() {
        let created: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        assert_eq!(Expiry::After(60).from(created).unwrap().to_string(), "2026-11-21T00:01:00Z");
        assert!(Expiry::After(0).from(created).is_err());
        assert!(Expiry::At(created).from(created).is_err());
    }
}
