//! The date of an HTTP answer (RFC 9110, section 5.6.7).
//!
//! In: the value of a `Date` field, in the form that is written today or one of the two older ones that have to be
//! read. Out: Unix seconds. Failure: none of the three, a date that no calendar has, or another day of the week.

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// 1970-01-01 was a Thursday.
const DAYS: [&[u8]; 7] =
    [b"Thursday", b"Friday", b"Saturday", b"Sunday", b"Monday", b"Tuesday", b"Wednesday"];
const DAY: u64 = 86_400;

/// Reads a date. A year of two digits is taken as the one within the 100 years around `near` (Unix seconds), from 49
/// years before to 50 years after.
#[must_use]
pub fn parse(value: &[u8], near: u64) -> Option<u64> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (name, rest) = (&value[..space], &value[space + 1..]);
    let (name, date) = match name.strip_suffix(b",") {
        Some(name) if name.len() == 3 => (name, fixdate(rest)?),
        Some(name) => (name, rfc850(rest, year_of(near / DAY))?),
        None if name.len() == 3 => (name, asctime(rest)?),
        None => return None,
    };
    let (days, second) = (days_to(date.year, date.month, date.day)?, second_of_day(date.time)?);
    let long = DAYS[usize::try_from(days % 7).ok()?];
    // A short name is the beginning of the long one, which only the old form has.
    let is_named = if date.has_long_name { name == long } else { name == &long[..3] };
    is_named.then_some(days * DAY + second)
}

struct Date<'a> {
    year: u64,
    month: &'a [u8],
    day: u64,
    time: &'a [u8],
    has_long_name: bool,
}

/// `06 Nov 1994 08:49:37 GMT`
fn fixdate(text: &[u8]) -> Option<Date<'_>> {
    let [d0, d1, b' ', _, _, _, b' ', y0, y1, y2, y3, b' '] = text.get(..12)? else { return None };
    let (year, day) = (number(&[*y0, *y1, *y2, *y3])?, number(&[*d0, *d1])?);
    Some(Date { year, month: &text[3..6], day, time: gmt(&text[12..])?, has_long_name: false })
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(text: &[u8], near: u64) -> Option<Date<'_>> {
    let [d0, d1, b'-', _, _, _, b'-', y0, y1, b' '] = text.get(..10)? else { return None };
    let first = near.checked_sub(49)?;
    let year = first + (number(&[*y0, *y1])? + 100 - first % 100) % 100;
    let day = number(&[*d0, *d1])?;
    Some(Date { year, month: &text[3..6], day, time: gmt(&text[10..])?, has_long_name: true })
}

/// `Nov  6 08:49:37 1994`
fn asctime(text: &[u8]) -> Option<Date<'_>> {
    let [_, _, _, b' ', d0, d1, b' ', .., b' ', y0, y1, y2, y3] = text else { return None };
    let day = if *d0 == b' ' { number(&[*d1])? } else { number(&[*d0, *d1])? };
    let (year, time) = (number(&[*y0, *y1, *y2, *y3])?, &text[7..text.len() - 5]);
    Some(Date { year, month: &text[..3], day, time, has_long_name: false })
}

fn gmt(text: &[u8]) -> Option<&[u8]> {
    text.strip_suffix(b" GMT")
}

/// `08:49:37`; second 60 is a leap second.
fn second_of_day(text: &[u8]) -> Option<u64> {
    let [h0, h1, b':', m0, m1, b':', s0, s1] = text else { return None };
    let (hour, minute, second) = (number(&[*h0, *h1])?, number(&[*m0, *m1])?, number(&[*s0, *s1])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u64::from(digit - b'0')))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1970 to the first of January.
fn days_to_year(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

fn days_to(year: u64, month: &[u8], day: u64) -> Option<u64> {
    let month = MONTHS.iter().position(|name| *name == month)?;
    let length = LENGTHS[month] + u64::from(month == 1 && is_leap(year));
    if !(1970..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    let leap_day = u64::from(month > 1 && is_leap(year));
    Some(days_to_year(year) + LENGTHS[..month].iter().sum::<u64>() + leap_day + day - 1)
}

fn year_of(days: u64) -> u64 {
    let guess = 1970 + days.min(3_000_000) / 366;
    (guess..).find(|year| days_to_year(year + 1) > days.min(3_000_000)).unwrap_or(guess)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// 2026-11-20.
    const NEAR: u64 = 1_795_161_600;

    fn read(text: &str) -> Option<u64> {
        parse(text.as_bytes(), NEAR)
    }

    #[test]
    fn reads_the_three_forms() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(read(text), Some(784_111_777), "{text}");
        }
        assert_eq!(read("Wed Nov 16 08:49:37 1994"), Some(784_975_777));
    }

    /// What `date -u -d @N '+%a, %d %b %Y %T GMT'` of GNU coreutils prints.
    #[test]
    fn agrees_with_gnu_date() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Fri, 20 Nov 2026 08:00:00 GMT", 1_795_161_600),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ] {
            assert_eq!(read(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..2400 {
            for (month, name) in MONTHS.iter().enumerate() {
                for day in 1..=LENGTHS[month] + u64::from(month == 1 && is_leap(year)) {
                    assert_eq!(days_to(year, name, day), Some(expected));
                    assert_eq!(year_of(expected), year);
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn two_digits_mean_the_year_that_is_near() {
        let read = |two: &str| {
            let text = format!("06-Nov-{two} 00:00:00 GMT");
            rfc850(text.as_bytes(), 2026).map(|date| date.year)
        };
        assert_eq!(read("26"), Some(2026));
        assert_eq!(read("76"), Some(2076));
        assert_eq!(read("77"), Some(1977));
        assert_eq!(read("00"), Some(2000));
    }

    #[test]
    fn a_leap_second_is_the_first_of_the_next_day() {
        assert_eq!(read("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_800));
    }

    #[test]
    fn refuses_other_spellings_and_impossible_dates() {
        for text in [
            "",
            "Sun",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday Nov  6 08:49:37 1994",
            "sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 06 Nov 1994 08:49:+7 GMT",
            "Thu, 00 Nov 1994 08:49:37 GMT",
            "Wed, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 2026 00:00:00 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sun, 06 Nov 0094 08:49:37 GMT",
            "Sun Nov 06 08:49:37 94",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 1994 GMT",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
