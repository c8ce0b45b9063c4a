// SPDX-License-Identifier: Apache-2.0
//! Replicas with clocks of their own that read late and publish later, over years of a simulated clock: what any of
//! them serves is always verified by what is published.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Replica {
    /// Its clock is ahead of the true time by `ahead - skew`.
    ahead: Duration,
    /// What it read last, and when.
    row: Vec<Authority>,
    /// Its leaf, and the number of the authority that signed it.
    leaf: Option<(Leaf, Authority)>,
    read_at: Duration,
    used_at: Duration,
}

struct World {
    rules: Rules,
    now: Duration,
    secret: Option<Vec<Authority>>,
    bundle: Vec<Authority>,
    replicas: Vec<Replica>,
    rotations: u32,
    most: usize,
}

impl World {
    fn new(rules: Rules, clocks: &[u32]) -> Self {
        let replica = |ahead: &u32| Replica {
            ahead: rules.skew * 2 * (ahead % 101) / 100,
            row: Vec::new(),
            leaf: None,
            read_at: NOW,
            used_at: NOW,
        };
        let mut world = Self {
            rules,
            now: NOW,
            secret: None,
            bundle: Vec::new(),
            replicas: clocks.iter().map(replica).collect(),
            rotations: 0,
            most: 0,
        };
        // Nothing is served before a first bundle is published.
        for index in 0..clocks.len() {
            world.read(index);
            world.publish(index);
        }
        world
    }

    fn clock(&self, index: usize) -> Duration {
        self.now + self.replicas[index].ahead - self.rules.skew
    }

    /// Reads the Secret, and writes it where that is due: nothing is in between, as with compare-and-swap.
    fn read(&mut self, index: usize) {
        let clock = self.clock(index);
        let found = self.secret.as_deref().map(stored);
        let plan = plan(found.as_ref(), &self.replicas[index].row, clock, &self.rules);
        let mut row = self.secret.clone().unwrap_or_default();
        row.retain(|authority| plan.keep.contains(&authority.number));
        assert!(plan.restore.is_empty());
        if let Some(new) = plan.new {
            assert!(self.secret.is_none() || new.signs_from > clock, "created anew");
            self.rotations += u32::from(self.secret.is_some());
            row.push(made(new));
        }
        self.most = self.most.max(row.len());
        self.secret = Some(row.clone());
        self.replicas[index].row = row;
        self.replicas[index].read_at = self.now;
    }

    /// Makes a leaf where that is due and publishes a bundle, by what was read last.
    fn publish(&mut self, index: usize) {
        let clock = self.clock(index);
        let replica = &mut self.replicas[index];
        let signer = signer(&replica.row, clock, &self.rules).unwrap();
        let due = |(leaf, by): (Leaf, Authority)| clock >= leaf.renew_at || by != signer;
        if replica.leaf.is_none_or(due) {
            replica.leaf = Some((leaf(&signer, clock, &self.rules), signer));
        }
        replica.used_at = self.now;
        self.bundle = replica.row.clone();
    }

    /// Lets time go by, by no more than the one who is due next can wait.
    fn pass(&mut self, wish: Duration) {
        let due = |replica: &Replica| replica.read_at.min(replica.used_at) + self.rules.longest_lag();
        let first = self.replicas.iter().map(due).min().unwrap();
        self.now = (self.now + wish).min(first);
        for index in 0..self.replicas.len() {
            if due_now(self.replicas[index].read_at, self.now, &self.rules) {
                self.read(index);
            }
            if due_now(self.replicas[index].used_at, self.now, &self.rules) {
                self.publish(index);
            }
        }
    }

    fn verify(&self) {
        for replica in &self.replicas {
            let (leaf, authority) = replica.leaf.unwrap();
            let trusted = self.bundle.contains(&authority);
            assert!(trusted, "{:?} does not verify {replica:?}", self.bundle);
            assert!(
                leaf.not_before <= self.now && self.now < leaf.not_after,
                "{replica:?}"
            );
            assert!(authority.not_before <= self.now && self.now < authority.not_after);
            // And by each other, once a leaf is renewed: what a replica read is what it trusts others by.
            let peers = self.replicas.iter().all(|peer| peer.row.contains(&authority));
            assert!(
                peers,
                "a replica does not trust {authority:?}: {:?}",
                self.replicas
            );
        }
    }
}

fn due_now(last: Duration, now: Duration, rules: &Rules) -> bool {
    now >= last + rules.longest_lag()
}

/// Times from minutes to years that go together.
fn rules() -> impl Strategy<Value = Rules> {
    (2_u64..400, 0_u64..100, 0_u64..100, 1_u64..100).prop_map(|(lag, skew, leaf, authority)| {
        let (lag, skew) = (lag * 60, skew * 30);
        let publication = (lag + skew) * 2;
        let leaf_life = (lag + skew * 2) * 3 + leaf * 600;
        let authority_life = (publication + leaf_life + skew * 4 + lag) * 3 + authority * 3_600;
        Rules {
            authority_life: Duration::from_secs(authority_life),
            publication: Duration::from_secs(publication),
            leaf_life: Duration::from_secs(leaf_life),
            skew: Duration::from_secs(skew),
        }
    })
}

#[derive(Clone, Debug)]
enum Event {
    /// Time goes by, in hundredths of what a replica may lag.
    Pass(u32),
    Read(usize),
    Publish(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0_u32..120).prop_map(Event::Pass),
        2 => (0_usize..4).prop_map(Event::Read),
        2 => (0_usize..4).prop_map(Event::Publish),
    ];
    proptest::collection::vec(event, 1..400)
}

proptest! {
    #[test]
    fn what_a_replica_serves_is_always_verified_by_what_is_published(
        rules in rules(),
        clocks in proptest::collection::vec(0_u32..101, 1..5),
        events in events(),
    ) {
        prop_assert_eq!(rules.check(), Ok(()));
        let mut world = World::new(rules, &clocks);
        for event in events {
            match event {
                Event::Pass(hundredths) => world.pass(rules.longest_lag() * hundredths / 100),
                Event::Read(index) => world.read(index % clocks.len()),
                Event::Publish(index) => world.publish(index % clocks.len()),
            }
            world.verify();
        }
    }
}

#[test]
fn ten_years_of_three_replicas_at_their_slowest_take_one_rotation_each_eight_months() {
    let mut world = World::new(RULES, &[0, 50, 100]);
    let mut steps = 0;
    while world.now < NOW + DAY * 3_650 {
        // As late as can be.
        world.pass(DAY * 1000);
        world.verify();
        steps += 1;
    }
    assert!(steps > 1_000, "{steps}");
    // An authority signs until two thirds of its life are over.
    assert_eq!(world.rotations, 14);
    assert_eq!(world.most, 2, "never more than the old one and the new one");
}
