// SPDX-License-Identifier: Apache-2.0
//! Makes a failing history small: delta debugging (Zeller and Hildebrandt 2002), all candidates of a round at once.

use super::history::History;

/// What to try next, and what is the smallest so far.
#[derive(Debug)]
pub(crate) struct Shrinker {
    smallest: History,
    /// Into how many parts the steps are cut.
    parts: usize,
    done: bool,
}

/// Candidates that are played side by side.
const WIDTH: usize = 16;

impl Shrinker {
    pub(crate) fn new(failing: History) -> Self {
        Self {
            smallest: failing,
            parts: 2,
            done: false,
        }
    }

    pub(crate) fn smallest(&self) -> &History {
        &self.smallest
    }

    /// The candidates of the next round: the smallest so far without one of its parts each, and each part alone.
    /// None when nothing is left to try.
    pub(crate) fn candidates(&self) -> Vec<History> {
        let steps = self.smallest.len();
        if self.done || steps < 2 {
            return Vec::new();
        }
        let parts = self.parts.min(steps);
        let part = |number: usize| move |step: usize| step * parts / steps == number;
        let alone = (0..parts).map(|number| self.smallest.keep(&part(number)));
        let without = (0..parts).map(|number| self.smallest.keep(&|step| !part(number)(step)));
        let mut candidates: Vec<History> = Vec::new();
        for candidate in alone.filter(|_| parts <= WIDTH / 2).chain(without) {
            if candidate.len() > 0 && candidate.len() < steps && !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    /// Learns which of the candidates of this round fail too.
    pub(crate) fn learn(&mut self, failing: Vec<History>) {
        let steps = self.smallest.len();
        let smaller = failing.into_iter().min_by_key(History::len);
        match smaller.filter(|history| history.len() < steps) {
            Some(history) => {
                self.smallest = history;
                self.parts = self.parts.saturating_sub(1).max(2);
            }
            None if self.parts >= steps => self.done = true,
            None => self.parts *= 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate;
    use super::*;

    /// Shrinks with a failure that can be computed, and counts the rounds.
    fn shrink(seed: u64, fails: impl Fn(&History) -> bool) -> (History, usize) {
        let mut shrinker = Shrinker::new(generate::history(seed));
        let mut rounds = 0;
        loop {
            let candidates = shrinker.candidates();
            if candidates.is_empty() {
                return (shrinker.smallest, rounds);
            }
            rounds += 1;
            shrinker.learn(
                candidates
                    .into_iter()
                    .filter(|candidate| fails(candidate))
                    .collect(),
            );
        }
    }

    fn holds(history: &History, text: &str) -> bool {
        history
            .segments
            .iter()
            .flatten()
            .any(|step| step.to_string().contains(text))
    }

    #[test]
    fn a_failure_of_one_step_shrinks_to_that_step() {
        let (smallest, rounds) = shrink(2, |history| holds(history, "create service"));
        assert_eq!(smallest.len(), 1, "{smallest:?}");
        assert!(rounds < 20, "{rounds}");
    }

    #[test]
    fn a_failure_of_two_steps_shrinks_to_both_and_what_they_need() {
        let fails = |history: &History| holds(history, "create pod") && holds(history, "edit service");
        let (smallest, _) = shrink(1, fails);
        assert!(fails(&smallest));
        assert!(smallest.len() <= 3, "{smallest:?}");
    }

    #[test]
    fn what_does_not_shrink_stays_whole() {
        let whole = generate::history(6);
        let length = whole.len();
        let (smallest, _) = shrink(6, |history| history.len() == length);
        assert_eq!(smallest, whole);
    }
}
