// SPDX-License-Identifier: Apache-2.0
//! The measured operations.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use berth_allocator::{Band, ItemSet, Pool, Request};
use berth_model::{IpFamily, ServiceKey};

use super::ground::{Ground, Level, owners, wide_pool};

/// How long a hold is kept (issue 6).
const HOLD: Duration = Duration::from_secs(60);

/// SplitMix64 (Steele, Lea, Flood, 2014): the random number of an allocation is part of what it costs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Nanoseconds of one allocation and one release, the mean of as many as take the time.
pub(crate) fn time(level: Level, ground: Ground, milliseconds: u64) -> Result<f64> {
    anyhow::ensure!(ground.taken < ground.size, "nothing is left to allocate");
    let least = Duration::from_millis(milliseconds);
    match level {
        Level::Set => {
            let mut set = ground.set();
            let mut random = Random(1);
            let bands = bands(ground);
            mean(least, || turn_of_set(&mut set, &bands, &mut random))
        }
        Level::Pool => {
            let mut pool = ground.pool()?;
            let (owners, mut random, mut turn) = (owners(), Random(1), 0u32);
            mean(least, || {
                turn = turn.wrapping_add(1);
                let owner = &owners[turn as usize % owners.len()];
                turn_of_pool(&mut pool, owner, Duration::from_micros(turn.into()), &mut random)
            })
        }
    }
}

/// Bytes of anonymous memory that so many random items of a /64 take.
pub(crate) fn strewn(level: Level, taken: u64) -> Result<u64> {
    let mut random = Random(64);
    let owners = owners();
    let before = anonymous()?;
    let after = match level {
        Level::Set => {
            let mut set = ItemSet::new(1 << 64);
            while set.taken() < taken.into() {
                set.insert(random.next().into());
            }
            let after = anonymous()?;
            black_box(&set);
            after
        }
        Level::Pool => {
            let mut pool = wide_pool()?;
            for owner in (0..taken).zip(owners.iter().cycle()).map(|(_, owner)| owner) {
                let request = Request::for_good(owner, Duration::ZERO).at_random(random.next());
                pool.allocate_any(IpFamily::V6, &request)?;
            }
            let after = anonymous()?;
            black_box(&pool);
            after
        }
    };
    Ok(after.saturating_sub(before))
}

/// As upstream: from a random place of the dynamic band, else of the static one.
fn turn_of_set(set: &mut ItemSet, bands: &[Band], random: &mut Random) -> Result<()> {
    let next = bands.iter().find_map(|band| {
        let places = band.last - band.first + 1;
        let from = band.first + ((u128::from(random.next()) * places) >> 64);
        set.next_free_within(*band, from)
    });
    let item = next.context("full")?;
    set.insert(item);
    set.remove(black_box(item));
    Ok(())
}

fn turn_of_pool(pool: &mut Pool, owner: &ServiceKey, now: Duration, random: &mut Random) -> Result<()> {
    let hold = Request::hold(owner, now, now + HOLD).at_random(random.next());
    let address = pool.allocate_any(IpFamily::V4, &hold)?;
    pool.allocate_this(address, &Request::for_good(owner, now))?;
    pool.release(black_box(address), owner, now)?;
    Ok(())
}

fn bands(ground: Ground) -> Vec<Band> {
    let (kept, size) = (u128::from(ground.kept), u128::from(ground.size));
    let dynamic = Band {
        first: kept,
        last: size - 1,
    };
    let fixed = kept.checked_sub(1).map(|last| Band { first: 0, last });
    [(kept < size).then_some(dynamic), fixed]
        .into_iter()
        .flatten()
        .collect()
}

/// The mean of one turn, in nanoseconds: twice as many turns until they take long enough.
fn mean(least: Duration, mut turn: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut turns = 1u32;
    loop {
        let start = Instant::now();
        for _ in 0..turns {
            turn()?;
        }
        let took = start.elapsed();
        if took >= least || turns > u32::MAX / 2 {
            return Ok(took.as_secs_f64() * 1e9 / f64::from(turns));
        }
        turns *= 2;
    }
}

/// Anonymous memory of this process in bytes, resident.
fn anonymous() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    let kilobytes: u64 = kilobytes
        .context("no RssAnon in /proc/self/status")?
        .trim()
        .parse()?;
    Ok(kilobytes * 1_024)
}
