// SPDX-License-Identifier: Apache-2.0
//! The naive pool: one cell an item, all of them looked at for every answer.

use super::*;

#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    pub(super) holder: Option<ServiceKey>,
    pub(super) deadline: Option<Duration>,
    pub(super) reserved: Option<ServiceKey>,
    pub(super) rests: Option<Duration>,
    rested: Option<Duration>,
    pub(super) withheld: bool,
}

impl Cell {
    fn is_free(&self) -> bool {
        self.holder.is_none() && self.reserved.is_none()
    }
}

pub(super) struct Naive<I: Item> {
    pub(super) definition: PoolDefinition<I, ServiceKey>,
    pub(super) cells: BTreeMap<I, Cell>,
}

/// What was given, or the kind of the refusal.
pub(super) type Answer<T> = Result<T, &'static str>;

impl<I: Item> Naive<I> {
    pub(super) fn new(definition: PoolDefinition<I, ServiceKey>, candidates: &[I]) -> Self {
        let member = |item: &I| definition.ranges.contains(*item) && !definition.excluded.contains(*item);
        let mut cells: BTreeMap<I, Cell> = candidates
            .iter()
            .filter(|item| member(item))
            .map(|item| {
                let withheld = definition.withheld.contains(*item);
                let cell = Cell {
                    withheld,
                    ..Cell::default()
                };
                (*item, cell)
            })
            .collect();
        for (item, owner) in &definition.reservations {
            if let Some(cell) = cells.get_mut(item)
                && cell.reserved.is_none()
            {
                cell.reserved = Some(owner.clone());
            }
        }
        Self { definition, cells }
    }

    pub(super) fn any(&mut self, family: I::Family, request: &Request<'_, ServiceKey>) -> Answer<I> {
        self.lapse(request.now);
        let of_family = || self.cells.iter().filter(|(item, _)| item.family() == family);
        if of_family().count() == 0 {
            return Err("NoSuchFamily");
        }
        self.admit(family, request.owner)?;
        let reserved = of_family().find(|(_, cell)| {
            cell.holder.is_none() && !cell.withheld && cell.reserved.as_ref() == Some(request.owner)
        });
        let forever = self.definition.strategy == Strategy::LeastRecentlyReleased;
        let fresh =
            |cell: &Cell| cell.is_free() && cell.rests.is_none_or(|until| until <= request.now && !forever);
        let kept = self
            .definition
            .static_band
            .items(self.definition.ranges.count(family));
        let lowest = usize::try_from(kept).unwrap();
        let (mut band, mut others) = (Vec::new(), Vec::new());
        for (index, (item, cell)) in of_family().enumerate().filter(|(_, (_, cell))| !cell.withheld) {
            let is_kept = index < lowest || self.definition.kept.contains(*item);
            let row = if is_kept { &mut band } else { &mut others };
            row.push((*item, fresh(cell)));
        }
        let by_strategy = |band: &[(I, bool)]| {
            let start = match self.definition.strategy {
                Strategy::LowestFirst | Strategy::LeastRecentlyReleased => 0,
                Strategy::Random => (u128::from(request.random) * band.len() as u128) >> 64,
            };
            let (before, behind) = band.split_at(usize::try_from(start).unwrap());
            let mut cyclic = behind.iter().chain(before);
            cyclic.find(|(_, fresh)| *fresh).map(|(item, _)| *item)
        };
        let resting = || {
            let resting =
                of_family().filter(|(_, cell)| cell.is_free() && !cell.withheld && cell.rests.is_some());
            resting.min_by_key(|(item, cell)| (cell.rests, **item))
        };
        let item = reserved
            .map(|(item, _)| *item)
            .or_else(|| by_strategy(&others))
            .or_else(|| by_strategy(&band))
            .or_else(|| resting().map(|(item, _)| *item))
            .ok_or("Exhausted")?;
        self.take(item, request, forever);
        Ok(item)
    }

    pub(super) fn this(&mut self, item: I, request: &Request<'_, ServiceKey>) -> Answer<Granted> {
        self.lapse(request.now);
        let Some(cell) = self.cells.get_mut(&item) else {
            return Err("NotInPool");
        };
        if cell.holder.as_ref() == Some(request.owner) {
            let Some(deadline) = cell.deadline else {
                return Ok(Granted::Already);
            };
            cell.deadline = request.hold_until.map(|until| until.max(deadline));
            return Ok(if cell.deadline.is_some() {
                Granted::Already
            } else {
                Granted::Bound
            });
        }
        match (&cell.holder, cell.deadline, &cell.reserved) {
            (Some(_), None, _) => return Err("AlreadyAllocated"),
            (Some(_), Some(_), _) => return Err("BeingGiven"),
            (None, ..) if cell.withheld => return Err("Withheld"),
            (None, _, Some(other)) if other != request.owner => return Err("Reserved"),
            (None, ..) => {}
        }
        self.admit(item.family(), request.owner)?;
        self.take(item, request, true);
        Ok(Granted::New)
    }

    pub(super) fn adopt(&mut self, item: I, owner: &ServiceKey) -> Answer<Granted> {
        let Some(cell) = self.cells.get_mut(&item) else {
            return Err("NotInPool");
        };
        let had = cell.holder.as_ref() == Some(owner);
        if cell.holder.is_some() && cell.deadline.is_none() {
            return if had {
                Ok(Granted::Already)
            } else {
                Err("AlreadyAllocated")
            };
        }
        (cell.holder, cell.deadline, cell.rests) = (Some(owner.clone()), None, None);
        Ok(if had { Granted::Bound } else { Granted::New })
    }

    pub(super) fn release(&mut self, item: I, owner: &ServiceKey, now: Duration) -> bool {
        let Some(cell) = self.cells.get_mut(&item) else {
            return false;
        };
        let had = cell.holder.as_ref() == Some(owner);
        if had {
            (cell.holder, cell.deadline) = (None, None);
            cell.rests = cell.reserved.is_none().then_some(now + REST);
        }
        had
    }

    pub(super) fn withdraw(&mut self, item: I, owner: &ServiceKey) -> bool {
        let Some(cell) = self.cells.get_mut(&item) else {
            return false;
        };
        let had = cell.holder.as_ref() == Some(owner) && cell.deadline.is_some();
        if had {
            (cell.holder, cell.deadline) = (None, None);
            cell.rests = cell.rested.take().filter(|_| cell.reserved.is_none());
        }
        had
    }

    pub(super) fn lapse(&mut self, now: Duration) -> BTreeSet<(I, ServiceKey)> {
        let mut lapsed = BTreeSet::new();
        for (item, cell) in &mut self.cells {
            if let Some(deadline) = cell.deadline.filter(|deadline| *deadline <= now) {
                lapsed.extend(cell.holder.take().map(|owner| (*item, owner)));
                cell.deadline = None;
                cell.rests = cell.reserved.is_none().then_some(deadline + REST);
            }
        }
        lapsed
    }

    pub(super) fn group_use(&self, family: I::Family, group: &str) -> u64 {
        let of_family = self.cells.iter().filter(|(item, _)| item.family() == family);
        let holders = of_family.filter_map(|(_, cell)| cell.holder.as_ref());
        holders.filter(|owner| owner.namespace() == group).count() as u64
    }

    fn admit(&self, family: I::Family, owner: &ServiceKey) -> Answer<()> {
        let group = owner.namespace();
        if self.definition.draining {
            return Err("Draining");
        }
        match self.definition.quota.limit(group) {
            Some(limit) if self.group_use(family, group) >= limit => Err("QuotaReached"),
            Some(_) | None => Ok(()),
        }
    }

    /// `remember`: a rest that is over counts as one until something else ends it.
    fn take(&mut self, item: I, request: &Request<'_, ServiceKey>, remember: bool) {
        let cell = self.cells.get_mut(&item).unwrap();
        cell.rested = cell.rests.take().filter(|until| remember || *until > request.now);
        cell.holder = Some(request.owner.clone());
        cell.deadline = request.hold_until;
    }
}
