//! Load from low to saturation: the points of a latency-throughput curve.

use std::error::Error;

use crate::load::{Outcome, run_steps};
use crate::options::{LoadOptions, SweepBy};
use crate::results::{Run, Sweep};

/// The rates of a sweep, in shares of what a closed loop reached.
const RATE_SHARES: [f64; 13] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1];
/// An open loop with less than this share of what was asked for is past saturation.
const SATURATED_BELOW: f64 = 0.97;
/// A closed loop is saturated when twice the concurrency gives less than this much more throughput, twice.
const GAIN_MIN: f64 = 1.03;

/// Carries out the sweep that the options ask for.
pub fn run(options: &LoadOptions, by: SweepBy) -> Result<Sweep, Box<dyn Error>> {
    let steps = match by {
        SweepBy::Rate => rates(options)?,
        SweepBy::Concurrency => concurrencies(options)?,
    };
    let steps = steps.iter().map(|(options, outcome)| Run::new(options, outcome)).collect();
    Ok(Sweep { sweep: by.name().to_owned(), steps })
}

/// One after the other until the server no longer keeps up.
fn rates(options: &LoadOptions) -> Result<Vec<(LoadOptions, Outcome)>, Box<dyn Error>> {
    let mut rates: Vec<f64> = options.steps.clone();
    let finds_top = rates.is_empty();
    let mut steps = run_steps(options, |steps| {
        if finds_top && steps.is_empty() {
            // The top, from a closed loop: the first step, which is dropped in the end.
            return Some(options.clone());
        }
        if finds_top && steps.len() == 1 {
            let top = per_second(&steps[0].1);
            rates = RATE_SHARES.iter().map(|share| round(share * top)).collect();
        }
        let before = steps.last().filter(|(step, _)| step.rate.is_some());
        if before.is_some_and(|(step, outcome)| per_second(outcome) < SATURATED_BELOW * step.rate.unwrap_or(0.0)) {
            return None;
        }
        let rate = *rates.get(steps.len() - usize::from(finds_top))?;
        Some(LoadOptions { rate: Some(rate), ..options.clone() })
    })?;
    if finds_top {
        let (_, top) = steps.remove(0);
        match steps.last_mut() {
            Some((_, last)) => last.faults.add(top.faults),
            None => return Err("the first step lost its connections".into()),
        }
    }
    Ok(steps)
}

/// Twice as many unanswered requests each time: first more connections, then more on each.
fn concurrencies(options: &LoadOptions) -> Result<Vec<(LoadOptions, Outcome)>, Box<dyn Error>> {
    let levels: Vec<(u32, u32)> = if options.steps.is_empty() {
        doublings(options.connections, options.outstanding)
    } else {
        options.steps.iter().map(|&level| spread(level as u32, options.connections)).collect()
    };
    run_steps(options, |steps| {
        if options.steps.is_empty()
            && let [.., (_, a), (_, b), (_, c)] = steps
            && per_second(b).max(per_second(c)) < GAIN_MIN * per_second(a)
        {
            return None;
        }
        let &(connections, outstanding) = levels.get(steps.len())?;
        Some(LoadOptions { connections, outstanding, ..options.clone() })
    })
}

/// Connections and outstanding requests on each, from 1 x 1 to all that is allowed.
fn doublings(connections: u32, outstanding: u32) -> Vec<(u32, u32)> {
    let double = |&level: &u32| level.checked_mul(2);
    let below = |limit| std::iter::successors(Some(1), double).take_while(move |&level| level < limit).chain([limit]);
    let wide = below(connections).map(|connections| (connections, 1));
    wide.chain(below(outstanding).skip(1).map(|outstanding| (connections, outstanding))).collect()
}

/// So many unanswered requests in all, as evenly as it goes.
fn spread(level: u32, connections: u32) -> (u32, u32) {
    let connections = connections.min(level.max(1));
    (connections, level.max(1).div_ceil(connections))
}

fn per_second(outcome: &Outcome) -> f64 {
    outcome.summary.completed as f64 / (outcome.summary.window_ns.max(1) as f64 / 1e9)
}

/// To two digits, but at least 1: a rate is read more often than it is repeated.
fn round(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.max(1.0).log10().floor() - 1.0);
    ((rate / unit).round() * unit).round().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_doubles_from_one_to_all_of_it() {
        assert_eq!(doublings(4, 4), [(1, 1), (2, 1), (4, 1), (4, 2), (4, 4)]);
        assert_eq!(doublings(3, 5), [(1, 1), (2, 1), (3, 1), (3, 2), (3, 4), (3, 5)]);
        assert_eq!(doublings(1, 1), [(1, 1)]);
        assert_eq!([spread(0, 8), spread(3, 8), spread(64, 8)], [(1, 1), (3, 1), (8, 8)]);
    }

    #[test]
    fn rates_are_round() {
        assert_eq!([0.4, 7.26, 123.0, 61_234.0].map(round), [1.0, 7.0, 120.0, 61_000.0]);
    }
}
