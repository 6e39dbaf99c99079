//! Makes a script that shows a difference as short as it can be made by leaving things out.

use crate::script::Step;

/// The most attempts at one script: each is a run against both servers.
const ATTEMPTS_MAX: usize = 600;

/// Leaves out steps, then parts of multis, as long as `differs` still holds.
pub fn shrink(steps: Vec<Step>, mut differs: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut best = steps;
    let mut attempts = 0;
    let mut holds = |candidate: &[Step]| {
        attempts += 1;
        attempts <= ATTEMPTS_MAX && differs(candidate)
    };
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut removed = false;
        while at < best.len() {
            let end = (at + size).min(best.len());
            let candidate = [&best[..at], &best[end..]].concat();
            if !candidate.is_empty() && holds(&candidate) {
                best = candidate;
                removed = true;
            } else {
                at = end;
            }
        }
        // What could not be left out before may be superfluous without what was left out since.
        if !(size == 1 && removed) {
            size /= 2;
        }
    }
    let mut at = 0;
    while at < best.len() {
        let mut candidates = best[at].without_each_part().into_iter().map(|step| {
            let mut candidate = best.clone();
            candidate[at] = step;
            candidate
        });
        let shorter = candidates.find(|candidate| holds(candidate));
        drop(candidates);
        match shorter {
            Some(candidate) => best = candidate,
            None => at += 1,
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::parse;

    fn text(steps: &[Step]) -> String {
        steps.iter().map(Step::to_string).collect()
    }

    #[test]
    fn only_what_is_needed_stays() {
        let mut lines: String = (0..40).map(|number| format!("0 get path=~/{number}\n")).collect();
        lines.push_str("0 multi\n| delete path=~/a\n| delete path=~/b\n| delete path=~/c\n");
        let steps = parse(&lines).expect("it can be read");
        let shrunk = shrink(steps, |steps| {
            let text = text(steps);
            text.contains("~/7\n") && text.contains("~/31\n") && text.contains("path=~/b")
        });
        assert_eq!(text(&shrunk), "0 get path=~/7\n0 get path=~/31\n0 multi\n| delete path=~/b\n");
    }
}
