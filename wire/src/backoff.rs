//! How long to wait before asking a silent network again.
//!
//! In: the time, and a seed that differs from machine to machine. Out: pauses that grow. For a minute they stay
//! short, as somebody waits for this machine to boot; a network that was silent for longer is left in peace
//! (RFC 7559, RFC 8415 section 15).

use std::time::Duration;

/// A switch may forward nothing for its first minute, so the next try must never be far.
const EAGER_CAP: Duration = Duration::from_secs(8);
const EAGER: Duration = Duration::from_secs(60);
/// `MAX_RTR_SOLICITATION` of RFC 7559, `INF_MAX_RT` of RFC 8415.
const CAP: Duration = Duration::from_secs(3600);

/// Pauses that double up to eight seconds, after a minute up to an hour; each a tenth longer or shorter, so
/// that a hall of machines that were switched on together does not ask as one.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    begun: Duration,
    next: Duration,
    random: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, seed: u32, now: Duration) -> Self {
        // Xorshift stays at zero for ever.
        Self { begun: now, next: first, random: seed | 1 }
    }

    /// The pause after the packet that is being sent now.
    pub(crate) fn pause(&mut self, now: Duration) -> Duration {
        let cap = if now.saturating_sub(self.begun) < EAGER { EAGER_CAP } else { CAP };
        let pause = self.next.min(cap);
        self.next = pause * 2;
        pause * (900 + self.next_random() % 201) / 1000
    }

    /// The next number of a xorshift generator: enough to spread packets and to number exchanges.
    pub(crate) fn next_random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_are_short_for_a_minute_and_then_grow_to_an_hour() {
        for seed in [0, 1, 7, u32::MAX] {
            let mut backoff = Backoff::new(SECOND, seed, Duration::ZERO);
            let (mut now, mut pauses) = (Duration::ZERO, Vec::new());
            for _ in 0..25 {
                let pause = backoff.pause(now);
                pauses.push(pause.as_secs_f64());
                now += pause;
            }
            let near = |pause: f64, wanted: f64| (pause / wanted - 1.0).abs() <= 0.1;
            let wanted = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0];
            assert!(pauses.iter().zip(wanted).all(|(pause, wanted)| near(*pause, wanted)), "{pauses:?}");
            assert!(near(pauses[24], 3600.0), "{pauses:?}");
        }
    }

    #[test]
    fn two_machines_do_not_ask_as_one() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(SECOND, seed, Duration::ZERO);
            [0, 1, 2].map(|now| backoff.pause(Duration::from_secs(now)))
        };
        assert_ne!(pauses(0x1234), pauses(0x1236));
    }
}
