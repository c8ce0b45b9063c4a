// SPDX-License-Identifier: Apache-2.0

mod world;

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules::DEFAULT;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Some day.
const NOW: Duration = Duration::from_secs(1_800_000_000);

fn stored(authorities: &[Authority]) -> Stored {
    Stored {
        authorities: authorities.to_vec(),
        faults: Vec::new(),
    }
}

/// What becomes of a plan for one that is made.
fn made(new: New) -> Authority {
    Authority {
        number: new.number,
        not_before: new.not_before,
        not_after: new.not_after,
        signs_from: new.signs_from,
        has_key: true,
    }
}

fn first() -> Authority {
    made(plan(None, &[], NOW, &RULES).new.unwrap())
}

fn changes(plan: &Plan) -> Vec<&'static str> {
    plan.changes.iter().map(|change| change.as_str()).collect()
}

#[test]
fn the_shipped_times_go_together_and_those_that_do_not_are_told() {
    assert_eq!(RULES.check(), Ok(()));
    let short = |rules: Rules| rules.check().unwrap_err().as_str();
    assert_eq!(
        short(Rules {
            authority_life: DAY * 20,
            ..RULES
        }),
        "AuthorityTooShort"
    );
    assert_eq!(
        short(Rules {
            leaf_life: DAY,
            ..RULES
        }),
        "LeafTooShort"
    );
    assert_eq!(
        short(Rules {
            publication: Duration::from_secs(1),
            ..RULES
        }),
        "PublicationTooShort"
    );
}

#[test]
fn the_first_authority_signs_at_once() {
    let plan = plan(None, &[], NOW, &RULES);
    assert_eq!(changes(&plan), ["Created"]);
    let authority = made(plan.new.unwrap());
    assert_eq!((authority.number, authority.signs_from), (1, NOW));
    assert_eq!(signer(&[authority], NOW, &RULES), Some(authority));
}

#[test]
fn nothing_is_written_before_a_third_of_the_life_is_left_and_the_time_of_it_is_told() {
    let authority = first();
    let due = authority.not_after - RULES.authority_life / 3;
    let before = plan(Some(&stored(&[authority])), &[], due - DAY, &RULES);
    assert!(before.is_empty(), "{before:?}");
    assert_eq!(before.again, Some(due));
    let plan = plan(Some(&stored(&[authority])), &[], due, &RULES);
    assert_eq!(changes(&plan), ["RotationBegun"]);
    assert_eq!(plan.keep, BTreeSet::from([1]));
    let new = plan.new.unwrap();
    assert_eq!((new.number, new.signs_from), (2, due + RULES.publication));
}

#[test]
fn a_new_authority_signs_when_its_time_has_come_and_the_old_one_goes_when_its_leaves_have() {
    let old = first();
    let begun = old.not_after - RULES.authority_life / 3;
    let young = made(plan(Some(&stored(&[old])), &[], begun, &RULES).new.unwrap());
    let row = [old, young];
    let switch = young.signs_from;
    let second = Duration::from_secs(1);
    assert_eq!(signer(&row, switch - second, &RULES), Some(old));
    assert_eq!(signer(&row, switch, &RULES), Some(young));
    let gone = switch + RULES.leaf_life + RULES.skew * 2;
    assert!(plan(Some(&stored(&row)), &[], gone - second, &RULES).is_empty());
    let last = plan(Some(&stored(&row)), &[], gone, &RULES);
    assert_eq!(changes(&last), ["OldDropped"]);
    assert_eq!(last.keep, BTreeSet::from([2]));
}

#[test]
fn an_expired_authority_is_replaced_by_one_that_signs_at_once() {
    let authority = first();
    let plan = plan(Some(&stored(&[authority])), &[], authority.not_after, &RULES);
    assert_eq!(changes(&plan), ["Created", "ExpiredDropped"]);
    assert!(plan.keep.is_empty());
}

#[test]
fn an_authority_without_its_key_stays_trusted_beside_a_new_one() {
    let keyless = Authority {
        has_key: false,
        ..first()
    };
    let plan = plan(Some(&stored(&[keyless])), &[], NOW + DAY, &RULES);
    assert_eq!(changes(&plan), ["Created"]);
    assert_eq!(plan.keep, BTreeSet::from([1]));
    assert_eq!(plan.new.unwrap().signs_from, NOW + DAY);
}

#[test]
fn garbage_is_replaced_by_what_is_remembered_and_a_deleted_secret_is_not() {
    let authority = first();
    let garbage = Stored {
        authorities: Vec::new(),
        faults: vec![("authority-1.crt".to_owned(), Fault::CertificateMalformed)],
    };
    let restored = plan(Some(&garbage), &[authority], NOW + DAY, &RULES);
    assert_eq!(changes(&restored), ["Restored", "Repaired"]);
    assert_eq!((restored.restore, restored.new), (BTreeSet::from([1]), None));
    let unknown = plan(Some(&garbage), &[], NOW + DAY, &RULES);
    assert_eq!(changes(&unknown), ["Created", "Repaired"]);
    let deleted = plan(None, &[authority], NOW + DAY, &RULES);
    assert_eq!(changes(&deleted), ["Created"]);
    assert!(deleted.restore.is_empty());
}

#[test]
fn a_lost_key_is_put_back_from_memory() {
    let authority = first();
    let keyless = Authority {
        has_key: false,
        ..authority
    };
    let plan = plan(Some(&stored(&[keyless])), &[authority], NOW + DAY, &RULES);
    assert_eq!(changes(&plan), ["Restored"]);
    assert_eq!((plan.keep.len(), plan.restore), (0, BTreeSet::from([1])));
}

#[test]
fn an_authority_of_the_future_signs_nothing_and_any_number_can_be_had() {
    let strange = Authority {
        number: u32::MAX,
        not_before: NOW + DAY,
        ..first()
    };
    assert_eq!(signer(&[strange], NOW, &RULES), None);
    let plan = plan(Some(&stored(&[strange])), &[], NOW, &RULES);
    assert_eq!(plan.new.unwrap().number, 1);
    assert_eq!(plan.keep, BTreeSet::from([u32::MAX]));
}

#[test]
fn one_that_would_sign_only_after_its_end_is_replaced_once_and_not_at_every_look() {
    let strange = Authority {
        not_after: NOW + DAY,
        signs_from: NOW + DAY * 2,
        ..first()
    };
    let young = made(plan(Some(&stored(&[strange])), &[], NOW, &RULES).new.unwrap());
    let again = plan(Some(&stored(&[strange, young])), &[], NOW, &RULES);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn a_leaf_ends_with_its_authority() {
    let authority = first();
    let early = leaf(&authority, NOW, &RULES);
    assert_eq!(early.not_after, NOW + RULES.leaf_life);
    assert!(early.renew_at < early.not_after && early.not_before < NOW);
    let late = leaf(&authority, authority.not_after - DAY, &RULES);
    assert_eq!(late.not_after, authority.not_after);
    assert_eq!(
        leaf(&authority, authority.not_after + DAY, &RULES).not_after,
        authority.not_after
    );
}

#[test]
fn every_fault_has_a_text_of_its_own() {
    let texts: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.as_str()).collect();
    assert_eq!(texts.len(), Fault::ALL.len());
}

/// Times around now and anywhere else.
fn any_time() -> impl Strategy<Value = Duration> {
    let near = (0_u64..1_000).prop_map(|days| NOW - DAY * 500 + DAY * u32::try_from(days).unwrap());
    prop_oneof![4 => near, 1 => any::<u64>().prop_map(Duration::from_secs), 1 => Just(Duration::MAX)]
}

fn any_authority() -> impl Strategy<Value = Authority> {
    let number = prop_oneof![3 => 0_u32..5, 1 => Just(u32::MAX)];
    (number, any_time(), any_time(), any_time(), any::<bool>()).prop_map(
        |(number, not_before, not_after, signs_from, has_key)| Authority {
            number,
            not_before,
            not_after,
            signs_from,
            has_key,
        },
    )
}

fn any_row() -> impl Strategy<Value = Vec<Authority>> {
    proptest::collection::btree_map(0_u32..1_000, any_authority(), 0..4).prop_map(|row| {
        let mut seen = BTreeSet::new();
        let mut row: Vec<Authority> = row.into_values().collect();
        row.retain(|authority| seen.insert(authority.number));
        row
    })
}

proptest! {
    #[test]
    fn whatever_is_stored_something_signs_after_one_plan_and_the_next_is_empty(
        row in any_row(),
        remembered in any_row(),
        faulty in any::<bool>(),
    ) {
        let mut found = stored(&row);
        if faulty {
            found.faults.push(("ca.crt".to_owned(), Fault::BundleDiffers));
        }
        let first = plan(Some(&found), &remembered, NOW, &RULES);
        let mut after: Vec<Authority> = row.iter().filter(|a| first.keep.contains(&a.number)).copied().collect();
        after.extend(remembered.iter().filter(|a| first.restore.contains(&a.number)));
        after.extend(first.new.map(made));
        let numbers: BTreeSet<u32> = after.iter().map(|authority| authority.number).collect();
        prop_assert_eq!(numbers.len(), after.len(), "two of one number");
        let signs = signer(&after, NOW, &RULES);
        prop_assert!(signs.is_some_and(|by| by.not_before <= NOW + RULES.skew && NOW < by.not_after));
        let second = plan(Some(&stored(&after)), &remembered, NOW, &RULES);
        prop_assert!(second.is_empty(), "{:?} after {:?}", second, first);
        prop_assert!(second.again.is_none_or(|at| at > NOW));
    }
}
