//! The page that people look errors up in, as the tests read it: what a machine says must be what the page explains.
//!
//! In: `docs/errors.md`. Out: the [`Explained`] codes. Failure: a page that is not as it should be, or a code or a reason that it
//! does not explain.

use anyhow::{Context, Result, ensure};

/// The page.
const PAGE: &str = include_str!("../../docs/errors.md");

/// What the section of a code says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Such as `ZS-NET-04`.
    pub code: String,
    /// Its word.
    pub reason: String,
    /// The stages that give it.
    pub stages: Vec<String>,
    /// No other attempt follows.
    pub is_final: bool,
}

/// What `stage` may print when it is refused for `what`, a code or a reason.
pub fn explained(stage: &str, what: &str) -> Result<Vec<Explained>> {
    let is_meant = |one: &Explained| one.code == what || one.reason == what;
    let mut found = all()?;
    found.retain(|one| is_meant(one) && one.stages.iter().any(|named| named == stage));
    ensure!(!found.is_empty(), "docs/errors.md explains no {what} of {stage}");
    Ok(found)
}

fn all() -> Result<Vec<Explained>> {
    PAGE.split("\n### ZS-").skip(1).map(section).collect()
}

fn section(text: &str) -> Result<Explained> {
    let (number, text) = text.split_once('\n').context("a section without text")?;
    let text = text.split("\n#").next().unwrap_or(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let line = text.split("- **Reason:** ").nth(1).and_then(|rest| rest.split(": ").next());
    let line = line.with_context(|| format!("no reason in the section of ZS-{number}"))?;
    let mut words = line.split('`').skip(1).step_by(2).map(str::to_owned);
    let reason = words.next().with_context(|| format!("no word in the section of ZS-{number}"))?;
    let is_final = text.contains("No other attempt follows");
    Ok(Explained { code: format!("ZS-{number}"), reason, stages: words.collect(), is_final })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_code_has_one_section_and_a_reason_may_have_several() {
        let [expired] = &explained("list", "expired").unwrap()[..] else { panic!("one section") };
        assert_eq!((expired.code.as_str(), expired.is_final), ("ZS-SIG-12", false));
        assert_eq!(explained("list", "ZS-SIG-12").unwrap(), std::slice::from_ref(expired));
        assert!(explained("network", "no-server").unwrap().len() > 10);
        assert!(explained("identity", "ZS-IMG-02").unwrap()[0].is_final);
        assert!(explained("identity", "expired").is_err());
    }
}
