//! The figures at the end of a soak.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::boot::Ended;

/// All boots of a soak.
pub struct Report {
    /// The seed of all plans.
    pub seed: u64,
    /// How many machines ran at a time.
    pub at_a_time: usize,
    /// From the first to the last.
    pub took: Duration,
    /// What came of each boot; none if it ended otherwise than it had to.
    pub results: Vec<Option<Ended>>,
}

impl Report {
    /// How many boots ended otherwise than they had to.
    pub fn failures(&self) -> usize {
        self.results.iter().filter(|result| result.is_none()).count()
    }

    fn ended(&self, has_booted: bool) -> Vec<&Ended> {
        self.results.iter().flatten().filter(|ended| ended.has_booted == has_booted).collect()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.has_booted { "booted" } else { "refused" };
        write!(f, "{how} after {:.1} s", self.after.as_secs_f64())?;
        if !self.refusals.is_empty() {
            write!(f, ", failed attempts: {}", self.refusals.join(" "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, took) = (self.results.len(), self.took.as_secs());
        writeln!(
            f,
            "soak: {count} boots, SEED={}, {} at a time, {took} s in all",
            self.seed, self.at_a_time
        )?;
        let (booted, refused) = (self.ended(true), self.ended(false));
        let again = booted.iter().filter(|ended| !ended.refusals.is_empty()).count();
        writeln!(f, "  booted   {:4}   {}", booted.len(), seconds(&booted))?;
        if again > 0 {
            writeln!(f, "    after a failed attempt {again:4}")?;
        }
        writeln!(f, "  refused  {:4}   {}", refused.len(), seconds(&refused))?;
        for (reason, count) in reasons(&refused) {
            writeln!(f, "    {reason:22} {count:4}")?;
        }
        writeln!(f, "  failures {:4}", self.failures())
    }
}

/// The boots by the reason that they gave last.
fn reasons<'a>(refused: &[&'a Ended]) -> BTreeMap<&'a str, usize> {
    let mut reasons = BTreeMap::new();
    for last in refused.iter().filter_map(|ended| ended.refusals.last()) {
        *reasons.entry(last.as_str()).or_default() += 1;
    }
    reasons
}

/// Median, 95th percentile and maximum.
fn seconds(boots: &[&Ended]) -> String {
    let mut times: Vec<f64> = boots.iter().map(|ended| ended.after.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    // The least time that so many of a hundred boots did not exceed.
    let percentile = |share: usize| times[(times.len() * share).div_ceil(100).saturating_sub(1)];
    let Some(most) = times.last() else { return "none".to_owned() };
    format!("median {:.1} s, 95 % {:.1} s, at most {most:.1} s", percentile(50), percentile(95))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(seconds: u64, refusals: &[&str], has_booted: bool) -> Ended {
        let refusals = refusals.iter().map(|&reason| reason.to_owned()).collect();
        Ended { after: Duration::from_secs(seconds), refusals, has_booted }
    }

    #[test]
    fn figures_are_those_of_the_boots() {
        let booted = (1..=20).map(|number| Some(ended(number, &[], true)));
        let others = [Some(ended(99, &["io", "sha256"], false)), Some(ended(30, &["io"], true)), None];
        let results = booted.chain(others).collect();
        let report = Report { seed: 7, at_a_time: 3, took: Duration::from_secs(60), results };
        let text = report.to_string();
        assert_eq!(report.failures(), 1);
        for line in [
            "booted     21   median 11.0 s, 95 % 20.0 s, at most 30.0 s",
            "after a failed attempt    1",
            "refused     1   median 99.0 s, 95 % 99.0 s, at most 99.0 s",
            "sha256                    1",
            "failures    1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
