//! Points in time as Unix seconds, written in RFC 3339 with `Z` and whole seconds, and spans such as `90d`.
//!
//! In: text from trusted comments and arguments. Out: [`Timestamp`]. Only one spelling is accepted, so that two
//! signers who mean the same instant write the same bytes.

use std::fmt;
use std::str::FromStr;

/// Seconds since 1970-01-01T00:00:00Z; years 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// 9999-12-31T23:59:59Z, the last instant that four year digits can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// One day in seconds.
pub const DAY: u64 = 86_400;

/// What is wrong with a time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimeError {
    /// Not `YYYY-MM-DDThh:mm:ssZ`, or a date that no calendar has.
    #[error("time {0:?} is not of the form 2026-11-20T08:00:00Z")]
    Syntax(String),
    /// Outside the years 1970 to 9999.
    #[error("{0} seconds lie outside the years 1970 to 9999")]
    Range(u64),
    /// Not a whole number followed by `s`, `m`, `h`, `d` or `y`.
    #[error("span {0:?} is not a number followed by s, m, h, d or y")]
    Span(String),
}

impl Timestamp {
    /// The instant `seconds` after the epoch.
    ///
    /// # Errors
    /// [`TimeError::Range`] beyond the year 9999.
    pub fn from_unix(seconds: u64) -> Result<Self, TimeError> {
        if seconds > LAST_SECOND { Err(TimeError::Range(seconds)) } else { Ok(Self(seconds)) }
    }

    /// Seconds since the epoch.
    #[must_use]
    pub fn unix(self) -> u64 {
        self.0
    }

    /// This instant `seconds` later, or the last second of 9999 if that is beyond it.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds).min(LAST_SECOND))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / DAY, self.0 % DAY);
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse(text.as_bytes()).ok_or_else(|| TimeError::Syntax(text.to_owned()))
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1, b'Z'] = text
    else {
        return None;
    };
    let year = number(&[y0, y1, y2, y3])?;
    let (month, day) = (number(&[m0, m1])?, number(&[d0, d1])?);
    let (hour, minute, second) = (number(&[h0, h1])?, number(&[n0, n1])?, number(&[s0, s1])?);
    if year < 1970 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_to(year, month, day)?;
    // The calendar check: a date that does not come back, such as 30 February, is not a date.
    if date_of(days) != (year, month, day) {
        return None;
    }
    Some(Timestamp(days * DAY + hour * 3600 + minute * 60 + second))
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))
}

/// Days from the epoch to a date of the proleptic Gregorian calendar, counting years from March so that the
/// leap day is the last of its year.
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days.checked_sub(DAYS_BEFORE_EPOCH)
}

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_EPOCH: u64 = 719_468;

fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_EPOCH;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (year * 365 + year / 4 - year / 100);
    let month = (day * 5 + 2) / 153;
    let day = day - (month * 153 + 2) / 5 + 1;
    let year = era * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Reads a span: a whole number and one of `s`, `m`, `h`, `d`, `y` (365 days); the result is in seconds.
///
/// # Errors
/// [`TimeError::Span`] for all else, and for spans beyond `u64`.
pub fn parse_span(text: &str) -> Result<u64, TimeError> {
    let wrong = || TimeError::Span(text.to_owned());
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => DAY,
        Some('y') => 365 * DAY,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn agrees_with_known_instants() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2025-11-20T08:00:00Z", 1_763_625_600),
            ("9999-12-31T23:59:59Z", LAST_SECOND),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().unix(), seconds);
            assert_eq!(Timestamp(seconds).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            let at = Timestamp(day * DAY + 1);
            assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
    }

    #[test]
    fn refuses_other_spellings_and_impossible_dates() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01t00:00:00z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T00:00:00.0Z",
            "2026-01-01 00:00:00Z",
            "1969-12-31T23:59:59Z",
            "",
        ] {
            assert!(matches!(text.parse::<Timestamp>(), Err(TimeError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn spans_have_one_unit() {
        assert_eq!(parse_span("90d").unwrap(), 90 * DAY);
        assert_eq!(parse_span("2h").unwrap(), 7200);
        for text in ["", "d", "1", "-1d", "+1d", "1w", "1.5d", "99999999999999999999d", "1é"] {
            assert!(matches!(parse_span(text), Err(TimeError::Span(_))), "{text}");
        }
    }
}
