// SPDX-License-Identifier: Apache-2.0
//! Any number of seeds: in batches, with a replay and a shrunken history for each failure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::arena::{Arena, Verdict};
use super::explain::Deviation;
use super::generate;
use super::history::{self, History, TRACK, Theme};
use super::shrink::Shrinker;
use super::step::NodeEvent;

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first seed.
    pub seed: u64,
    /// How many seeds from there.
    pub histories: u64,
    /// Where the logs go.
    pub logs: PathBuf,
    /// Pairs of servers at once: much of a run is waiting for quiet.
    pub pairs: usize,
    /// How long failures are replayed and made smaller at most, all together.
    pub shrink_for: Duration,
    /// How long a difference has to stay to count.
    pub patience: Duration,
    /// Further flags of Berth alone, to see that a wrong Berth is found out.
    pub berth_flags: Vec<String>,
}

impl Config {
    /// Upstream tries again after 1, 2, 4 .. seconds: this leaves it six times.
    pub const PATIENCE: Duration = Duration::from_secs(70);
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Histories run.
    pub histories: usize,
    /// Steps that both API servers took.
    pub steps: usize,
    /// Steps that both refused alike.
    pub refused: usize,
    /// Comparisons of the Endpoints and slices of a name, over all barriers.
    pub compared: usize,
    /// Services at barriers whose slices upstream has in the number that the model of its packing says.
    pub as_modelled: usize,
    /// Services at barriers that the model was asked about.
    pub modelled: usize,
    /// Deviations on purpose that were met and held, with how often.
    pub deviations: BTreeMap<String, usize>,
    /// Differences that nothing explains.
    pub failures: Vec<Failure>,
    /// Wall time in seconds.
    pub seconds: u64,
    #[serde(skip)]
    shrinking: Duration,
}

/// A history that ends differently on the two sides.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What kind of history it is.
    pub theme: String,
    /// What differed first.
    pub difference: String,
    /// What it takes, as far as it was made smaller on fresh servers; or the whole history where a replay did not
    /// show the difference again, or none was made.
    pub history: String,
    /// What a replay alone on fresh servers showed.
    pub replay: Replay,
}

/// What a replay of a failure showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// There was no time for one.
    NotTried,
    /// The two sides ended alike.
    Passed,
    /// They differed again.
    Failed,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} ({})", self.seed, self.theme)?;
        write!(f, "{}", self.difference)?;
        let what = match self.replay {
            Replay::NotTried => "the whole history (not replayed)",
            Replay::Passed => "the whole history (a replay on fresh servers did not show it again)",
            Replay::Failed => "shrunken history (replayed on fresh servers)",
        };
        writeln!(f, "  {what}:\n{}", self.history)?;
        writeln!(f, "  again: make soak SEED={} N=1", self.seed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} histories, {} steps taken and {} refused by both servers alike, {} comparisons in {} s",
            self.histories, self.steps, self.refused, self.compared, self.seconds
        )?;
        writeln!(
            f,
            "upstream packs as the model of it says at {} of {} barriers of a Service",
            self.as_modelled, self.modelled
        )?;
        for (deviation, count) in &self.deviations {
            writeln!(f, "  {count:6} x {deviation}")?;
        }
        writeln!(f, "unexplained differences: {}", self.failures.len())?;
        self.failures
            .iter()
            .try_for_each(|failure| write!(f, "\n{failure}"))
    }
}

/// Histories of one theme that share a pair of servers and what happens to the nodes.
#[derive(Clone, Debug)]
struct Batch {
    theme: Theme,
    seeds: Vec<u64>,
}

/// Side by side at most: more would only wait for each other.
const BATCH: usize = 48;

fn batches(seed: u64, histories: u64) -> Vec<Batch> {
    let mut grouped: BTreeMap<(u64, Theme), Vec<u64>> = BTreeMap::new();
    for seed in seed..seed.saturating_add(histories) {
        grouped
            .entry((seed / TRACK, Theme::of(seed)))
            .or_default()
            .push(seed);
    }
    let split = |((_, theme), seeds): ((u64, Theme), Vec<u64>)| {
        let chunks: Vec<Vec<u64>> = seeds.chunks(BATCH).map(<[u64]>::to_vec).collect();
        chunks.into_iter().map(move |seeds| Batch { theme, seeds })
    };
    grouped.into_iter().flat_map(split).collect()
}

/// The history of a seed, with what happens to the nodes, as people read it.
pub fn printed(seed: u64) -> String {
    let theme = Theme::of(seed);
    history::print(&generate::history(seed), &generate::nodes(seed, theme))
}

/// Runs the histories of the seeds and reports; `progress` is told what happens.
///
/// # Errors
/// The harness does not work: a server does not come up, a contender ends by itself.
pub async fn run(config: &Config, progress: &(dyn Fn(&str) + Sync)) -> Result<Report> {
    let started = Instant::now();
    let each = batches(config.seed, config.histories)
        .into_iter()
        .enumerate()
        .map(|(number, batch)| play(config, number, batch, progress));
    let mut running = futures::stream::iter(each).buffer_unordered(config.pairs.max(1));
    let mut report = Report::default();
    while let Some(part) = running.try_next().await? {
        report.add(part);
        progress(&format!(
            "{} of {} histories done, {} unexplained differences",
            report.histories,
            config.histories,
            report.failures.len()
        ));
    }
    report.seconds = started.elapsed().as_secs();
    report.failures.sort_by_key(|failure| failure.seed);
    Ok(report)
}

impl Report {
    fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.steps += other.steps;
        self.refused += other.refused;
        self.compared += other.compared;
        self.as_modelled += other.as_modelled;
        self.modelled += other.modelled;
        for (deviation, count) in other.deviations {
            *self.deviations.entry(deviation).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

    fn count(&mut self, verdict: &Verdict) {
        self.histories += 1;
        self.steps += verdict.accepted;
        self.refused += verdict.refused;
        self.compared += verdict.compared;
        self.as_modelled += verdict.as_modelled;
        self.modelled += verdict.modelled;
        for (deviation, count) in &verdict.deviations {
            let deviation: &Deviation = deviation;
            *self.deviations.entry(deviation.to_string()).or_default() += count;
        }
    }
}

async fn play(
    config: &Config,
    number: usize,
    batch: Batch,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Report> {
    let logs = config.logs.join(format!("batch-{number}"));
    let histories: Vec<History> = batch.seeds.iter().map(|seed| generate::history(*seed)).collect();
    let Some(track) = batch
        .seeds
        .first()
        .map(|seed| generate::nodes(*seed, batch.theme))
    else {
        return Ok(Report::default());
    };
    let what = format!("{} histories of seeds {:?}", batch.theme, batch.seeds);
    let mut arena = Arena::start(batch.theme, &logs, config).await?;
    let verdicts = arena.play(&histories, &track, progress).await.context(what)?;
    drop(arena);
    let mut report = Report::default();
    for (history, verdict) in histories.iter().zip(&verdicts) {
        report.count(verdict);
        if let Some((segment, differences)) = &verdict.failed {
            let difference: String = differences.iter().map(ToString::to_string).collect();
            progress(&format!("seed {} differs:\n{difference}", history.seed));
            let logs = config.logs.join(format!("seed-{}", history.seed));
            let whole = history::print(history, &track);
            let left = config.shrink_for.saturating_sub(report.shrinking);
            if left.is_zero() {
                report
                    .failures
                    .push(failure(history, difference, whole, Replay::NotTried));
                continue;
            }
            let started = Instant::now();
            let smaller = replay((config, left), history, &track, *segment, logs, progress).await?;
            report.shrinking += started.elapsed();
            let failure = match smaller {
                Some((difference, shrunken)) => failure(history, difference, shrunken, Replay::Failed),
                None => failure(history, difference, whole, Replay::Passed),
            };
            progress(&failure.to_string());
            report.failures.push(failure);
        }
    }
    Ok(report)
}

fn failure(history: &History, difference: String, text: String, replay: Replay) -> Failure {
    Failure {
        seed: history.seed,
        theme: history.theme.to_string(),
        difference,
        history: text,
        replay,
    }
}

/// Replays a history alone on fresh servers and, if it fails again, makes it smaller there.
async fn replay(
    (config, left): (&Config, Duration),
    history: &History,
    track: &[Vec<NodeEvent>],
    segment: usize,
    logs: PathBuf,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Option<(String, String)>> {
    let started = Instant::now();
    let mut arena = Arena::start(history.theme, &logs, config).await?;
    // What comes after the failure has no part in it.
    let mut cut = history.clone();
    cut.segments.truncate(segment + 1);
    let still = &track[..1.min(track.len())];
    let mut track = track;
    let again = arena
        .play(std::slice::from_ref(&cut), track, &|_: &str| {})
        .await?;
    let Some(mut difference) = again.first().and_then(described) else {
        return Ok(None);
    };
    // Most differences that stay for a quarter of the time stay for ever, and there are many candidates.
    arena.patience /= 4;
    let without = arena
        .play(std::slice::from_ref(&cut), still, &|_: &str| {})
        .await?;
    if let Some(found) = without.first().and_then(described) {
        (track, difference) = (still, found);
    }
    let mut shrinker = Shrinker::new(cut);
    while started.elapsed() < left {
        let candidates = shrinker.candidates();
        if candidates.is_empty() {
            break;
        }
        progress(&format!(
            "seed {}: {} steps are enough, trying {} smaller histories",
            history.seed,
            shrinker.smallest().len(),
            candidates.len()
        ));
        let verdicts = arena.play(&candidates, track, &|_: &str| {}).await?;
        let tried = candidates.into_iter().zip(verdicts);
        let failing: Vec<(History, String)> = tried
            .filter_map(|(candidate, verdict)| Some((candidate, described(&verdict)?)))
            .collect();
        if let Some((_, found)) = failing.iter().min_by_key(|(candidate, _)| candidate.len()) {
            difference.clone_from(found);
        }
        shrinker.learn(failing.into_iter().map(|(candidate, _)| candidate).collect());
    }
    Ok(Some((difference, history::print(shrinker.smallest(), track))))
}

fn described(verdict: &Verdict) -> Option<String> {
    let (segment, differences) = verdict.failed.as_ref()?;
    let differences: String = differences
        .iter()
        .map(|difference| format!("  {difference}"))
        .collect();
    Some(format!("  after segment {}:\n{differences}", segment + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_in_one_batch_with_seeds_of_its_theme_and_track() {
        let batches = batches(100, 200);
        let mut seeds: Vec<u64> = batches.iter().flat_map(|batch| batch.seeds.clone()).collect();
        seeds.sort_unstable();
        assert_eq!(seeds, (100..300).collect::<Vec<_>>());
        for batch in &batches {
            assert!(batch.seeds.len() <= BATCH);
            assert!(batch.seeds.iter().all(|seed| Theme::of(*seed) == batch.theme));
            assert!(
                batch
                    .seeds
                    .iter()
                    .all(|seed| seed / TRACK == batch.seeds[0] / TRACK)
            );
        }
    }

    #[test]
    fn a_failure_says_how_to_see_it_again() {
        let failure = failure(
            &generate::history(9),
            "x: Endpoints differ\n".to_owned(),
            "  steps\n".to_owned(),
            Replay::Failed,
        );
        let text = failure.to_string();
        assert!(
            text.contains("make soak SEED=9 N=1") && text.contains("steps"),
            "{text}"
        );
    }
}
