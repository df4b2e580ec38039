//! Chance that can be repeated: splitmix64.
//!
//! In: a seed. Out: the same choices each time, for the same questions in the same order. Nothing here is secret or
//! fit to be.

/// The generator.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// One that begins with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, not including, 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True for this share of the answers.
    pub fn hits(&mut self, share: f64) -> bool {
        share > 0.0 && self.share() < share
    }

    /// A number of `range`, which is not empty.
    pub fn within(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        first + (self.share() * (last - first + 1) as f64) as u64
    }

    /// One of these, of which there is at least one.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..=choices.len() as u64 - 1) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the seed 1234567, as the reference implementation gives them.
    #[test]
    fn gives_what_splitmix64_gives() {
        let mut chance = Chance::new(1_234_567);
        let given: Vec<u64> = (0..3).map(|_| chance.bits()).collect();
        assert_eq!(given, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_reach_both_ends_of_their_range_and_stay_within() {
        let mut chance = Chance::new(1);
        let numbers: Vec<u64> = (0..1000).map(|_| chance.within(3..=5)).collect();
        assert_eq!((numbers.iter().min(), numbers.iter().max()), (Some(&3), Some(&5)));
    }
}
