// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

fn candidate(identity: &str, instance: &str) -> Election {
    Election::new(identity.to_owned(), instance.to_owned(), TIMING)
}

fn claim(holder: &str, instance: &str, version: u64) -> Claim {
    Claim {
        holder: holder.to_owned(),
        instance: instance.to_owned(),
        duration: TIMING.lease_duration,
        resource_version: version.to_string(),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The API server's part: optimistic locking, nothing else.
#[derive(Default)]
struct Store {
    lease: Option<Claim>,
    version: u64,
}

impl Store {
    fn apply(&mut self, step: &Step, identity: &str, instance: &str) -> Option<Claim> {
        let fits = match step {
            Step::Create => self.lease.is_none(),
            Step::Claim { resource_version, .. } => self
                .lease
                .as_ref()
                .is_some_and(|lease| lease.resource_version == *resource_version),
            Step::Follow | Step::Stop(_) => false,
        };
        if !fits {
            return None;
        }
        self.version += 1;
        let written = claim(identity, instance, self.version);
        self.lease = Some(written.clone());
        Some(written)
    }
}

#[test]
fn an_absent_lease_is_created_and_leads_until_the_renew_deadline() {
    let (mut a, t0) = (candidate("a", "1"), Instant::now());
    assert_eq!(a.observe(None, t0), Step::Create);
    a.claimed(claim("a", "1", 1), t0, t0 + secs(1));
    assert_eq!(
        a.leading_until(),
        Some(t0 + TIMING.renew_deadline),
        "counted from before the write"
    );
}

#[test]
fn a_foreign_lease_is_taken_only_after_it_stood_still_for_its_duration() {
    let (mut b, t0) = (candidate("b", "1"), Instant::now());
    assert_eq!(b.observe(Some(claim("a", "1", 1)), t0), Step::Follow);
    assert_eq!(
        b.observe(Some(claim("a", "1", 2)), t0 + secs(10)),
        Step::Follow,
        "renewed"
    );
    assert_eq!(b.observe(Some(claim("a", "1", 2)), t0 + secs(24)), Step::Follow);
    assert_eq!(
        b.observe(Some(claim("a", "1", 2)), t0 + secs(25)),
        Step::Claim {
            resource_version: "2".to_owned(),
            transition: true
        }
    );
}

#[test]
fn a_longer_duration_written_by_the_holder_is_respected() {
    let (mut b, t0) = (candidate("b", "1"), Instant::now());
    let long = Claim {
        duration: secs(60),
        ..claim("a", "1", 1)
    };
    assert_eq!(b.observe(Some(long.clone()), t0), Step::Follow);
    assert_eq!(b.observe(Some(long.clone()), t0 + secs(59)), Step::Follow);
    assert!(matches!(b.observe(Some(long), t0 + secs(60)), Step::Claim { .. }));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut b = candidate("b", "1");
    let released = claim("", "1", 3);
    assert!(matches!(
        b.observe(Some(released), Instant::now()),
        Step::Claim { transition: true, .. }
    ));
}

#[test]
fn a_restarted_holder_goes_on_at_once() {
    let mut again = candidate("a", "2");
    assert_eq!(
        again.observe(Some(claim("a", "1", 7)), Instant::now()),
        Step::Claim {
            resource_version: "7".to_owned(),
            transition: false
        }
    );
}

#[test]
fn a_leader_stops_when_the_deadline_passes_without_a_renewal() {
    let (mut a, t0) = (candidate("a", "1"), Instant::now());
    a.claimed(claim("a", "1", 1), t0, t0);
    assert_eq!(a.tick(t0 + secs(9)), None);
    assert_eq!(a.tick(t0 + secs(10)), Some(Lost::Deadline));
    assert_eq!(a.leading_until(), None);
}

#[test]
fn a_leader_stops_when_the_lease_names_another() {
    let (mut a, t0) = (candidate("a", "1"), Instant::now());
    a.claimed(claim("a", "1", 1), t0, t0);
    assert_eq!(
        a.observe(Some(claim("b", "1", 2)), t0 + secs(2)),
        Step::Stop(Lost::Taken)
    );
}

#[test]
fn of_two_processes_with_one_identity_the_older_stops() {
    let (mut a, t0) = (candidate("a", "1"), Instant::now());
    a.claimed(claim("a", "1", 1), t0, t0);
    assert_eq!(
        a.observe(Some(claim("a", "2", 2)), t0 + secs(2)),
        Step::Stop(Lost::SameIdentity)
    );
}

#[test]
fn a_lease_deleted_under_a_leader_is_made_again() {
    let (mut a, t0) = (candidate("a", "1"), Instant::now());
    a.claimed(claim("a", "1", 1), t0, t0);
    assert_eq!(a.observe(None, t0 + secs(2)), Step::Create);
}

/// One candidate in the simulation: its clock runs at `rate` percent of true time.
struct Replica {
    election: Election,
    identity: &'static str,
    rate: u32,
    next: Duration,
    paused_until: Duration,
}

impl Replica {
    fn clock(&self, epoch: Instant, true_time: Duration) -> Instant {
        epoch + true_time * self.rate / 100
    }

    fn leads(&self, epoch: Instant, true_time: Duration) -> bool {
        self.election
            .leading_until()
            .is_some_and(|until| self.clock(epoch, true_time) < until)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Clocks that differ by up to 20 percent in rate (the margin between 10 s and 15 s allows a third),
    /// writes that get lost, replicas that pause: never do two lead at one moment, by their own clocks.
    #[test]
    fn never_do_two_lead_at_once(
        rates in (90..110u32, 90..110u32),
        faults in prop::collection::vec((any::<bool>(), 0..10u8, 0..40u64), 300),
    ) {
        let epoch = Instant::now();
        let mut store = Store::default();
        let replica = |identity, rate| Replica {
            election: candidate(identity, "1"), identity, rate, next: Duration::ZERO, paused_until: Duration::ZERO,
        };
        let mut replicas = [replica("a", rates.0), replica("b", rates.1)];
        let mut led = [false, false];
        for (tick, (first, fault, pause)) in faults.into_iter().enumerate() {
            let time = Duration::from_millis(u64::try_from(tick).unwrap() * 500);
            let order = if first { [0, 1] } else { [1, 0] };
            for index in order {
                let now = replicas[index].clock(epoch, time);
                let replica = &mut replicas[index];
                if time < replica.next || time < replica.paused_until { continue; }
                replica.next = time + TIMING.retry_period;
                if fault == 0 { replica.paused_until = time + secs(pause); continue; }
                let step = replica.election.observe(store.lease.clone(), now);
                // A lost answer: the write happened, the writer does not know.
                if let Some(written) = store.apply(&step, replica.identity, "1") && fault != 1 {
                    replica.election.claimed(written, now, now);
                }
            }
            let leading: Vec<bool> = replicas.iter().map(|replica| replica.leads(epoch, time)).collect();
            prop_assert!(!(leading[0] && leading[1]), "both lead at {time:?}");
            led[0] |= leading[0];
            led[1] |= leading[1];
        }
        prop_assert!(led[0] || led[1], "nobody ever led");
    }
}
