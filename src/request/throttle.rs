//! How many connects are let through: a bucket of tokens that fills with time, and before it, if that is asked for, a
//! chance of being dropped that follows how empty the bucket is.
//!
//! Source: `BlueThrottle.java`.

use crate::types::Instant;

/// `connection_throttle_*`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// `…_tokens`: what the bucket holds; 0 lets everybody through.
    pub tokens_max: u32,
    /// `…_fill_time` in ms, at least 1: how often tokens come.
    pub fill_time_ms: u64,
    /// `…_fill_count`: and how many.
    pub fill_count: u32,
    /// `…_freeze_time` in ms: how often the chance of being dropped may change; `None` keeps it at 0.
    pub freeze_time_ms: Option<u64>,
    /// `…_drop_increase`: by how much it grows while the bucket is empty.
    pub drop_increase: f64,
    /// `…_drop_decrease`: by how much it falls while the bucket is nearly full.
    pub drop_decrease: f64,
    /// `…_decrease_ratio`: which part of the bucket may be missing for that.
    pub decrease_ratio: f64,
    /// `…_weight_enabled`: what a new session and an old one cost; tokens are then counted in new sessions.
    pub weights: Option<Weights>,
}

/// Tokens that a connect takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weights {
    /// For a new session.
    pub new: u32,
    /// For an old one.
    pub renewed: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tokens_max: 0,
            fill_time_ms: 1,
            fill_count: 1,
            freeze_time_ms: None,
            drop_increase: 0.02,
            drop_decrease: 0.002,
            decrease_ratio: 0.0,
            weights: None,
        }
    }
}

/// See the module.
pub struct ConnectionThrottle {
    settings: Settings,
    tokens_max: u64,
    tokens: u64,
    filled: Instant,
    frozen: Instant,
    drop_chance: f64,
    random: u64,
}

impl ConnectionThrottle {
    /// A full bucket. `seed` begins the stream of chances.
    pub fn new(settings: Settings, now: Instant, seed: u64) -> ConnectionThrottle {
        let weight = settings.weights.map_or(1, |weights| weights.new);
        let tokens_max = u64::from(settings.tokens_max) * u64::from(weight);
        let (tokens, filled, frozen) = (tokens_max, now, now);
        ConnectionThrottle { settings, tokens_max, tokens, filled, frozen, drop_chance: 0.0, random: seed }
    }

    /// Whether a connect may go on.
    pub fn admits(&mut self, now: Instant, is_new: bool) -> bool {
        let Settings { fill_time_ms, fill_count, weights, .. } = self.settings;
        if self.tokens_max == 0 {
            return true;
        }
        let passed_ms = now.since_ms(self.filled);
        if passed_ms > fill_time_ms {
            let weight = weights.map_or(1, |weights| weights.new);
            let more = passed_ms.saturating_mul(u64::from(fill_count) * u64::from(weight)) / fill_time_ms;
            self.tokens = self.tokens.saturating_add(more).min(self.tokens_max);
            self.filled = now;
        }
        if self.settings.freeze_time_ms.is_some_and(|freeze_time_ms| self.is_dropped(now, freeze_time_ms)) {
            return false;
        }
        let need = u64::from(weights.map_or(1, |weights| if is_new { weights.new } else { weights.renewed }));
        let enough = self.tokens >= need;
        if enough {
            self.tokens -= need;
        }
        enough
    }

    /// 0 to 1.
    pub fn drop_chance(&self) -> f64 {
        self.drop_chance
    }

    fn is_dropped(&mut self, now: Instant, freeze_time_ms: u64) -> bool {
        if now.since_ms(self.frozen) > freeze_time_ms {
            self.frozen = now;
            let missing = self.tokens_max - self.tokens;
            let few = (self.tokens_max as f64 * self.settings.decrease_ratio).round() as u64;
            if self.tokens == 0 {
                self.drop_chance = (self.drop_chance + self.settings.drop_increase).min(1.0);
            } else if missing <= few {
                self.drop_chance = (self.drop_chance - self.settings.drop_decrease).max(0.0);
            }
        }
        self.next_random() < self.drop_chance
    }

    /// 0 to 1, without 1 (SplitMix64).
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(settings: Settings) -> ConnectionThrottle {
        ConnectionThrottle::new(settings, Instant(0), 1)
    }

    /// How many of so many are let through at that moment.
    fn admitted(throttle: &mut ConnectionThrottle, at: u64, count: usize, is_new: bool) -> usize {
        (0..count).filter(|_| throttle.admits(Instant(at), is_new)).count()
    }

    #[test]
    fn nothing_is_held_back_by_default() {
        assert_eq!(admitted(&mut throttle(Settings::default()), 0, 10_000, true), 10_000);
    }

    #[test]
    fn a_bucket_of_tokens() {
        let mut t = throttle(Settings { tokens_max: 5, fill_time_ms: 10, fill_count: 2, ..Settings::default() });
        assert_eq!(admitted(&mut t, 0, 100, true), 5);
        // Tokens come with more than the time, and for all of it.
        assert_eq!(admitted(&mut t, 10, 100, true), 0);
        assert_eq!(admitted(&mut t, 15, 100, true), 3);
        assert_eq!(admitted(&mut t, 1000, 100, true), 5);
    }

    #[test]
    fn weights_count_in_new_sessions() {
        let weights = Some(Weights { new: 3, renewed: 2 });
        let settings = Settings { tokens_max: 4, weights, ..Settings::default() };
        assert_eq!(admitted(&mut throttle(settings), 0, 100, true), 4);
        assert_eq!(admitted(&mut throttle(settings), 0, 100, false), 6);
    }

    #[test]
    fn the_chance_of_being_dropped_follows_the_bucket() {
        let settings = Settings {
            tokens_max: 10,
            fill_time_ms: 1000,
            freeze_time_ms: Some(1),
            drop_increase: 0.25,
            drop_decrease: 0.25,
            decrease_ratio: 0.5,
            ..Settings::default()
        };
        let mut t = throttle(settings);
        assert_eq!(admitted(&mut t, 0, 100, true), 10);
        for (at, chance) in [(2, 0.25), (4, 0.5), (6, 0.75), (8, 1.0), (10, 1.0)] {
            assert!(!t.admits(Instant(at), true));
            assert_eq!(t.drop_chance(), chance);
        }
        // The bucket has filled: chances get better one step at a time.
        for (at, chance) in [(20_000, 0.75), (20_002, 0.5), (20_004, 0.25), (20_006, 0.0)] {
            t.admits(Instant(at), true);
            assert_eq!(t.drop_chance(), chance);
        }
    }
}
