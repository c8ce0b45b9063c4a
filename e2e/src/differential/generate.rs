// SPDX-License-Identifier: Apache-2.0
//! From a seed to a history, always the same one.

use serde::{Deserialize, Serialize};

use super::dice::Dice;
use super::history::{History, TRACK, Theme};
use super::propose::Proposer;
use super::step::{NodeEvent, NodeShape};
use super::world::World;

/// Apart from each other: histories, and the nodes that several of them share.
const HISTORY_STREAM: u64 = 1;
const NODES_STREAM: u64 = 2;

/// Every node name but the last exists at first; Pods are bound to all of them.
pub(crate) const NODES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n-late"];

/// How many steps a history has, and how many between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) segments: usize,
    pub(crate) steps: usize,
}

impl Size {
    /// At least 50 steps.
    pub(crate) fn of(theme: Theme) -> Self {
        match theme {
            Theme::Plain => Self {
                segments: 5,
                steps: 10,
            },
            Theme::Packing | Theme::Topology => Self {
                segments: 10,
                steps: 5,
            },
        }
    }
}

/// The history of a seed.
pub(crate) fn history(seed: u64) -> History {
    let theme = Theme::of(seed);
    let size = Size::of(theme);
    let mut proposer = Proposer::new(Dice::new(seed, HISTORY_STREAM), theme);
    let mut world = World::new();
    let mut segments = Vec::new();
    for number in 0..size.segments {
        let mut steps = Vec::new();
        // Of the proposals that make no sense now there are many, but never all.
        for _ in 0..size.steps * 200 {
            if steps.len() == size.steps {
                break;
            }
            let step = proposer.propose(&world, number > 0 && steps.len() < 2);
            if world.allows(&step, theme.pace()) {
                world.apply(&step);
                steps.push(step);
            }
        }
        world.settle();
        segments.push(steps);
    }
    History {
        seed,
        theme,
        segments,
    }
}

/// What happens to the nodes before each segment of the histories whose seeds share a track.
pub(crate) fn nodes(seed: u64, theme: Theme) -> Vec<Vec<NodeEvent>> {
    let mut dice = Dice::new(seed / TRACK, NODES_STREAM + theme.number());
    let (last, first) = (NODES.len() - 1, &NODES[..NODES.len() - 1]);
    let start = first
        .iter()
        .map(|name| NodeEvent::Put((*name).to_owned(), shape(&mut dice, theme, true)));
    let mut track = vec![start.collect::<Vec<_>>()];
    // A zone that upstream misses for now makes it write a slice at another time, and so pack otherwise.
    if theme == Theme::Packing {
        return track;
    }
    let mut present = [true, true, true, true, true, false];
    for _ in 1..Size::of(theme).segments {
        let mut events = Vec::new();
        for _ in 0..1 + dice.below(2) {
            let which = if dice.chance(20) { last } else { dice.below(last) };
            let name = NODES[which].to_owned();
            if events.iter().any(|event| named(event) == name) {
                continue;
            }
            let delete = present[which] && dice.chance(25);
            present[which] = !delete;
            events.push(if delete {
                NodeEvent::Delete(name)
            } else {
                NodeEvent::Put(name, shape(&mut dice, theme, false))
            });
        }
        track.push(events);
    }
    track
}

fn named(event: &NodeEvent) -> &str {
    match event {
        NodeEvent::Put(name, _) | NodeEvent::Delete(name) => name,
    }
}

/// Proportional hints need zones, CPUs and ready nodes: mostly they are there.
fn shape(dice: &mut Dice, theme: Theme, first: bool) -> NodeShape {
    let lacking = match theme {
        Theme::Plain | Theme::Packing => 15,
        Theme::Topology if first => 0,
        Theme::Topology => 8,
    };
    NodeShape {
        zone: (!dice.chance(lacking)).then(|| dice.word(&["z1", "z2", "z3"])),
        ready: !dice.chance(lacking),
        cpu: (!dice.chance(lacking)).then(|| [1, 2, 2, 4][dice.below(4)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_history_of_at_least_fifty_steps() {
        for seed in 0..400 {
            let made = history(seed);
            assert_eq!(made, history(seed), "seed {seed}");
            let steps: usize = made.segments.iter().map(Vec::len).sum();
            assert!(steps >= 50, "seed {seed}: {steps} steps");
        }
        assert_ne!(history(1).segments, history(2).segments);
    }

    #[test]
    fn every_theme_comes_up_and_neighbours_share_their_nodes() {
        for theme in Theme::ALL {
            assert!((0..TRACK).any(|seed| Theme::of(seed) == theme), "{theme}");
            assert_eq!(nodes(0, theme), nodes(TRACK - 1, theme));
            assert_ne!(nodes(0, theme), nodes(TRACK, theme), "{theme}");
        }
    }

    #[test]
    fn every_kind_of_step_comes_up_in_sixty_histories() {
        let text: String = (0..60)
            .flat_map(|seed| history(seed).segments)
            .flatten()
            .map(|step| format!("{step}\n"))
            .collect();
        for part in [
            "create service",
            "delete service",
            "create pod",
            "create endpoints",
            "edit endpoints",
            "delete endpoints",
            "meddle with endpoints",
            "meddle with slice",
            "\"selector\":null",
            "toExternalName",
            "fromExternalName",
            "\"policy\":\"SingleStack\"",
            "RequireDualStack",
            "PreferDualStack",
            "\"type\":\"NodePort\"",
            "LoadBalancer",
            "Headless",
            "publishNotReady",
            "PreferSameNode",
            "PreferSameZone",
            "PreferClose",
            "topology-mode",
            "sidecarPorts",
            "hostNetwork",
            "hostname",
            "\"terminate\"",
            "\"remove\"",
            "Failed",
            "Succeeded",
            "bind",
            "skip-mirror",
            LEADER,
            "endpointslice.kubernetes.io/managed-by",
        ] {
            assert!(text.contains(part), "no {part:?} in sixty histories");
        }
    }

    use super::super::world::LEADER;
}
