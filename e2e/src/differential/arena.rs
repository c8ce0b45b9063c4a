// SPDX-License-Identifier: Apache-2.0
//! The two servers side by side, and histories played on both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};

use super::compare::{self, Aspect, Before, Difference, NodeLedger, Outcome, Pair, Rigour, Slices, Terms};
use super::explain::Deviation;
use super::history::{History, Theme};
use super::observe::{self, Observed};
use super::run::Config;
use super::side::{Answer, Side};
use super::step::{NodeEvent, Step};
use super::world::World;
use crate::stage::Contender;

/// Namespaces that steps are taken in at once, on each side.
const AT_ONCE: usize = 6;

/// A pair of servers, each with its contender.
pub(crate) struct Arena {
    theme: Theme,
    peer: Side,
    berth: Side,
    /// How long a difference has to stay to count.
    pub(crate) patience: Duration,
    /// Barriers and namespaces so far: names are never used twice.
    barriers: usize,
    namespaces: usize,
}

/// How a history ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// The number of the segment after which the two sides differed.
    pub(crate) failed: Option<(usize, Vec<Difference>)>,
    pub(crate) deviations: BTreeMap<Deviation, usize>,
    /// Comparisons of a name, at all barriers.
    pub(crate) compared: usize,
    /// Of the Services compared, those whose slices upstream packs as the model of it says, and all.
    pub(crate) as_modelled: usize,
    pub(crate) modelled: usize,
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
}

/// A history on its way.
struct Player<'a> {
    history: &'a History,
    namespace: String,
    world: World,
    verdict: Verdict,
    /// Upstream was made to look again at the barrier that is judged.
    put_off: bool,
    before: Before,
}

impl Arena {
    /// Starts all of it, both sides at once.
    pub(crate) async fn start(theme: Theme, logs: &Path, config: &Config) -> Result<Self> {
        static PORT: AtomicU16 = AtomicU16::new(10_400);
        let port = || PORT.fetch_add(1, Ordering::Relaxed);
        let mut berth_flags = theme.flags();
        berth_flags.extend(config.berth_flags.iter().cloned());
        let (peer, berth) = tokio::try_join!(
            Side::start(Contender::KubeControllerManager, logs, theme.flags(), port()),
            Side::start(Contender::Berth, logs, berth_flags, port()),
        )?;
        tokio::try_join!(peer.place_sentinel(), berth.place_sentinel())?;
        Ok(Self {
            theme,
            peer,
            berth,
            patience: config.patience,
            barriers: 0,
            namespaces: 0,
        })
    }

    /// Plays histories side by side.
    ///
    /// # Errors
    /// The harness does not work; what the controllers do is in the verdicts.
    pub(crate) async fn play(
        &mut self,
        histories: &[History],
        track: &[Vec<NodeEvent>],
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Vec<Verdict>> {
        let mut players = self.enter(histories).await?;
        let mut nodes = NodeLedger::default();
        let segments = histories.iter().map(|history| history.segments.len()).max();
        let last = segments.unwrap_or(0).saturating_sub(1);
        self.reset_nodes(track).await?;
        for number in 0..=last {
            let events = track.get(number).filter(|_| number > 0);
            let events = events.map_or(&[][..], Vec::as_slice);
            let idle = players.iter().all(|player| player.segment(number).is_empty());
            if idle && events.is_empty() && number < last {
                continue;
            }
            progress(&format!("{}: segment {} of {}", self.theme, number + 1, last + 1));
            self.nodes(events, &mut nodes).await?;
            self.segment(&mut players, number).await?;
            if self.theme == Theme::Topology {
                // Shares depend on which slices change, so upstream's are compared once it has made all of them anew.
                self.barrier().await?;
            } else {
                self.judge(&mut players, &mut nodes, number, Rigour::Settled)
                    .await?;
            }
            if self.theme == Theme::Topology || number % 2 == 1 || number == last {
                self.touch(&players).await?;
                self.judge(&mut players, &mut nodes, number, Rigour::Touched)
                    .await?;
            }
        }
        Ok(players.into_iter().map(|player| player.verdict).collect())
    }

    async fn enter<'a>(&mut self, histories: &'a [History]) -> Result<Vec<Player<'a>>> {
        let mut players = Vec::new();
        for history in histories {
            self.namespaces += 1;
            let namespace = format!("h{}-seed-{}", self.namespaces, history.seed);
            tokio::try_join!(
                self.peer.create_namespace(&namespace),
                self.berth.create_namespace(&namespace)
            )?;
            players.push(Player {
                history,
                namespace,
                world: World::new(),
                verdict: Verdict::default(),
                put_off: false,
                before: Before::default(),
            });
        }
        Ok(players)
    }

    /// Exactly the nodes that a track begins with.
    async fn reset_nodes(&mut self, track: &[Vec<NodeEvent>]) -> Result<()> {
        for side in [&self.peer, &self.berth] {
            let there = observe::zones(&side.list().await?);
            for name in there.into_keys() {
                side.node(&NodeEvent::Delete(name)).await?;
            }
            for event in track.first().into_iter().flatten() {
                side.node(event).await?;
            }
        }
        self.barrier().await
    }

    async fn nodes(&mut self, events: &[NodeEvent], ledger: &mut NodeLedger) -> Result<()> {
        for event in events {
            tokio::try_join!(self.peer.node(event), self.berth.node(event))?;
            match event {
                NodeEvent::Put(name, _) => {
                    // One that was not there when the histories began was missing until now.
                    if !ledger.zones.contains_key(name) {
                        ledger.missing.insert(name.clone());
                    }
                    ledger.changed.insert(name.clone());
                }
                NodeEvent::Delete(name) => {
                    ledger.missing.insert(name.clone());
                }
            }
        }
        Ok(())
    }

    async fn segment(&mut self, players: &mut [Player<'_>], number: usize) -> Result<()> {
        let (peer, berth) = tokio::try_join!(
            take(&self.peer, players, number),
            take(&self.berth, players, number)
        )?;
        for ((player, peer), berth) in players.iter_mut().zip(peer).zip(berth) {
            let steps = player.segment(number).to_vec();
            for ((step, peer), berth) in steps.iter().zip(&peer).zip(&berth) {
                if peer != berth {
                    player.fail(number, answers_differ(&step.to_string(), *peer, *berth));
                    break;
                }
                match peer {
                    Answer::Accepted => {
                        player.world.apply(step);
                        if let Step::MeddleSlice(service, nth, how) = step {
                            player.before.meddled(service, *nth, *how);
                        }
                        player.verdict.accepted += 1;
                    }
                    Answer::Refused(_) | Answer::Nothing => player.verdict.refused += 1,
                }
            }
        }
        Ok(())
    }

    /// Both sides have seen everything, and nothing is written any more.
    async fn barrier(&mut self) -> Result<()> {
        self.barriers += 1;
        tokio::try_join!(
            self.peer.pass_sentinel(self.barriers),
            self.berth.pass_sentinel(self.barriers)
        )?;
        tokio::try_join!(self.peer.settle(), self.berth.settle())?;
        self.peer.check()?;
        self.berth.check()
    }

    async fn touch(&self, players: &[Player<'_>]) -> Result<()> {
        for player in players.iter().filter(|player| player.verdict.failed.is_none()) {
            for name in player.world.services.keys() {
                tokio::try_join!(
                    self.peer.touch(&player.namespace, name, self.barriers),
                    self.berth.touch(&player.namespace, name, self.barriers)
                )?;
            }
        }
        Ok(())
    }

    /// Makes upstream, and upstream alone, look again at what differs.
    async fn nudge(&self, players: &[Player<'_>], outcomes: &[Outcome], number: u32) -> Result<()> {
        let differing = players.iter().zip(outcomes);
        for (player, _) in differing.filter(|(_, outcome)| !outcome.differences.is_empty()) {
            for name in player.world.services.keys() {
                let number = self.barriers * 10 + usize::try_from(number)?;
                self.peer.nudge(&player.namespace, name, number).await?;
            }
        }
        Ok(())
    }

    /// Compares at a barrier, and again while something differs and patience lasts.
    async fn judge(
        &mut self,
        players: &mut [Player<'_>],
        nodes: &mut NodeLedger,
        number: usize,
        rigour: Rigour,
    ) -> Result<()> {
        self.barrier().await?;
        let started = Instant::now();
        let mut nudged = 0;
        loop {
            let (peer, berth) = tokio::try_join!(self.peer.list(), self.berth.list())?;
            nodes.zones = observe::zones(&berth);
            ensure!(
                nodes.zones == observe::zones(&peer),
                "the nodes of the two sides differ"
            );
            let (peer, berth) = (observe::observe(&peer), observe::observe(&berth));
            let stuck = self.peer.stuck_mirrors()?;
            let outcomes: Vec<Outcome> = players
                .iter()
                .map(|player| player.compare((&peer, &berth), nodes, &stuck, rigour))
                .collect();
            let equal = outcomes.iter().all(|outcome| outcome.differences.is_empty());
            if equal || started.elapsed() >= self.patience {
                for (player, outcome) in players.iter_mut().zip(outcomes) {
                    player.take(outcome, number, rigour);
                    player.before = Before {
                        peer: slices(&peer, &player.namespace),
                        berth: slices(&berth, &player.namespace),
                    };
                }
                break;
            }
            if started.elapsed() >= self.patience / 3 * (nudged + 1) {
                nudged += 1;
                for (player, outcome) in players.iter_mut().zip(&outcomes) {
                    player.put_off |= !outcome.differences.is_empty();
                }
                self.nudge(players, &outcomes, nudged).await?;
            }
            tokio::join!(self.peer.stir(), self.berth.stir());
        }
        if rigour == Rigour::Touched {
            nodes.changed.clear();
            nodes.missing.clear();
        }
        Ok(())
    }
}

impl Player<'_> {
    fn segment(&self, number: usize) -> &[Step] {
        if self.verdict.failed.is_some() {
            return &[];
        }
        self.history.segments.get(number).map_or(&[], Vec::as_slice)
    }

    fn fail(&mut self, number: usize, difference: Difference) {
        self.verdict.failed = Some((number, vec![difference]));
    }

    fn compare(
        &self,
        (peer, berth): (&BTreeMap<String, Observed>, &BTreeMap<String, Observed>),
        nodes: &NodeLedger,
        stuck: &BTreeSet<String>,
        rigour: Rigour,
    ) -> Outcome {
        if self.verdict.failed.is_some() {
            return Outcome::default();
        }
        let nothing = Observed::default();
        let pair = Pair {
            peer: peer.get(&self.namespace).unwrap_or(&nothing),
            berth: berth.get(&self.namespace).unwrap_or(&nothing),
        };
        let here = |key: &String| {
            let name = key.strip_prefix(&self.namespace)?.strip_prefix('/')?;
            Some(name.to_owned())
        };
        let stuck_mirrors = stuck.iter().filter_map(here).collect();
        let terms = Terms {
            theme: self.history.theme,
            world: &self.world,
            nodes,
            stuck_mirrors: &stuck_mirrors,
            before: &self.before,
            rigour,
        };
        compare::compare(pair, terms)
    }

    /// Takes what the last comparison at a barrier gave.
    fn take(&mut self, outcome: Outcome, number: usize, rigour: Rigour) {
        self.verdict.compared += outcome.compared;
        self.verdict.as_modelled += outcome.as_modelled;
        self.verdict.modelled += outcome.modelled;
        for (deviation, count) in outcome.deviations {
            *self.verdict.deviations.entry(deviation).or_default() += count;
        }
        if self.verdict.failed.is_none() && !outcome.differences.is_empty() {
            self.verdict.failed = Some((number, outcome.differences));
        }
        if std::mem::take(&mut self.put_off) && self.verdict.failed.is_none() {
            *self.verdict.deviations.entry(Deviation::PutOff).or_default() += 1;
        }
        self.world.settle();
        if rigour == Rigour::Touched {
            self.world.forgive();
        }
    }
}

fn slices(all: &BTreeMap<String, Observed>, namespace: &str) -> Slices {
    all.get(namespace)
        .map_or_else(Slices::new, |observed| observed.slices.clone())
}

/// Takes the steps of a segment in every namespace, some namespaces at once, each in order.
async fn take(side: &Side, players: &[Player<'_>], number: usize) -> Result<Vec<Vec<Answer>>> {
    let each = players.iter().map(|player| async move {
        let mut answers = Vec::new();
        for step in player.segment(number) {
            answers.push(side.take(&player.namespace, step).await?);
        }
        anyhow::Ok(answers)
    });
    // In the order of the players.
    futures::stream::iter(each).buffered(AT_ONCE).try_collect().await
}

fn answers_differ(step: &str, peer: Answer, berth: Answer) -> Difference {
    Difference {
        name: "a step".to_owned(),
        aspect: Aspect::Inputs,
        why: Some(step.to_owned()),
        only_peer: vec![format!("{peer:?}")],
        only_berth: vec![format!("{berth:?}")],
    }
}
