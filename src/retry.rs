//! How often and how long to wait between tries: a policy as a value, with a cap and jitter.
//!
//! In: a policy and random bits. Out: the pause before the next try, or none when all tries are used. No clock
//! and no sleep in here, so every pause can be tested in virtual time.

use std::time::Duration;

/// Tries with doubling pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Pause after the first try.
    pub first: Duration,
    /// No pause is longer than this, jitter included.
    pub cap: Duration,
    /// Tries in all.
    pub tries: u32,
}

impl Retry {
    /// The pause after try number `done` (from 1) has failed; none when it was the last. Between three quarters
    /// and the whole of the doubled pause, so that a farm does not come back in step.
    #[must_use]
    pub fn pause_after(&self, done: u32, random: u32) -> Option<Duration> {
        if done >= self.tries {
            return None;
        }
        let doubled = self.first.saturating_mul(1u32.checked_shl(done.saturating_sub(1)).unwrap_or(u32::MAX));
        let whole = doubled.min(self.cap);
        let jitter = f64::from(random) / f64::from(u32::MAX) / 4.0;
        Some(whole.mul_f64(1.0 - jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry { first: Duration::from_secs(1), cap: Duration::from_secs(60), tries: 100 };

    #[test]
    fn pauses_double_up_to_the_cap() {
        let pauses: Vec<u64> =
            (1..=8).filter_map(|n| POLICY.pause_after(n, 0)).map(|p| p.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        // A shift beyond the width of the type must not start again at one second.
        assert_eq!(POLICY.pause_after(99, 0), Some(Duration::from_secs(60)));
    }

    #[test]
    fn jitter_only_shortens() {
        for random in [0, 1, u32::MAX / 2, u32::MAX] {
            let pause = POLICY.pause_after(3, random).expect("there are tries left");
            assert!(pause >= Duration::from_secs(3) && pause <= Duration::from_secs(4), "{pause:?}");
        }
    }

    #[test]
    fn the_last_try_has_no_pause() {
        assert_eq!(Retry { tries: 1, ..POLICY }.pause_after(1, 0), None);
    }
}
