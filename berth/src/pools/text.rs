// SPDX-License-Identifier: Apache-2.0
//! The report for people: tables in the manner of kubectl.

use std::fmt::{self, Write};

use super::{Conflict, PoolReport, Report};

/// How many ranges a line of the table has, and how many conflicts stand below it.
const RANGES: usize = 3;
const CONFLICTS: usize = 10;
/// Where promises are counted.
const HOLDS: &str = "HELD is what the pool's status says: values that are promised to Services on their way. For whom, only Berth's \
    replicas know: each is ALLOCATED within moments, or FREE again after 65 seconds where its create has failed.";

impl Report {
    /// All pools, a line for each family, and what is not as it should be.
    pub(crate) fn table(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        if self.pools.is_empty() {
            writeln!(text, "No pools.")?;
        } else {
            let mut rows = vec![row([
                "NAME",
                "USE",
                "STANDING",
                "OF",
                "CAPACITY",
                "ALLOCATED",
                "RESERVED",
                "FREE",
                "NAMESPACES",
                "RANGES",
            ])];
            for pool in &self.pools {
                rows.extend(lines(pool));
            }
            text += &columns(&rows);
        }
        self.append_conflicts(&mut text, CONFLICTS)?;
        self.append_remarks(&mut text)?;
        Ok(text)
    }

    /// What is not as it should be, all of it.
    pub(crate) fn conflict_list(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        if self.conflicts.is_empty() {
            writeln!(text, "No conflicts.")?;
        } else {
            text += &conflict_table(&self.conflicts);
        }
        self.append_remarks(&mut text)?;
        Ok(text)
    }

    /// Each pool with everything about it.
    pub(crate) fn details(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for (index, pool) in self.pools.iter().enumerate() {
            if index > 0 {
                writeln!(text)?;
            }
            detail(pool, &mut text)?;
        }
        self.append_conflicts(&mut text, usize::MAX)?;
        writeln!(text, "\n{HOLDS}")?;
        self.append_remarks(&mut text)?;
        Ok(text)
    }

    fn append_conflicts(&self, text: &mut String, most: usize) -> fmt::Result {
        if self.conflicts.is_empty() {
            return Ok(());
        }
        let shown = self.conflicts.get(..most).unwrap_or(&self.conflicts);
        writeln!(text, "\nConflicts:")?;
        *text += &indented(&conflict_table(shown));
        let more = self.conflicts.len() - shown.len();
        if more > 0 {
            writeln!(text, "  and {more} more: berth pools --conflicts")?;
        }
        Ok(())
    }

    fn append_remarks(&self, text: &mut String) -> fmt::Result {
        if !self.remarks.is_empty() {
            writeln!(text)?;
        }
        self.remarks
            .iter()
            .try_for_each(|remark| writeln!(text, "{remark}"))
    }
}

fn lines(pool: &PoolReport) -> Vec<Vec<String>> {
    let mut ranges = pool
        .ranges
        .iter()
        .take(RANGES)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    if pool.ranges.len() > RANGES {
        ranges += &format!(" and {} more", pool.ranges.len() - RANGES);
    }
    let lines = pool.counts.iter().map(|count| {
        let namespaces = pool
            .namespaces
            .iter()
            .filter(|namespace| namespace.used.contains_key(count.of));
        row([
            &pool.name,
            pool.used_for,
            pool.standing,
            count.of,
            &count.capacity,
            &count.allocated.to_string(),
            &count.reserved.to_string(),
            &count.free,
            &namespaces.count().to_string(),
            &ranges,
        ])
    });
    let lines: Vec<Vec<String>> = lines.collect();
    if lines.is_empty() {
        // Nothing of its ranges can be read.
        return vec![row([
            &pool.name,
            pool.used_for,
            pool.standing,
            "-",
            "0",
            "0",
            "0",
            "0",
            "0",
            &ranges,
        ])];
    }
    lines
}

fn detail(pool: &PoolReport, text: &mut String) -> fmt::Result {
    writeln!(text, "{} {}", pool.kind, pool.name)?;
    let mut facts = vec![
        row(["  Use:", pool.used_for]),
        row(["  Standing:", pool.standing]),
    ];
    if let Some(because) = &pool.because {
        facts.push(row(["  Because:", because]));
    }
    facts.push(row(["  Ranges:", &pool.ranges.join(", ")]));
    if !pool.exclude.is_empty() {
        facts.push(row(["  Excluded:", &pool.exclude.join(", ")]));
    }
    facts.push(row(["  Serves:", &pool.selects]));
    facts.push(row(["  Priority:", &pool.priority.to_string()]));
    *text += &columns(&facts);
    writeln!(text)?;
    let mut counts = vec![row([
        "OF",
        "CAPACITY",
        "ALLOCATED",
        "RESERVED",
        "HELD",
        "WITHHELD",
        "FREE",
    ])];
    counts.extend(pool.counts.iter().map(|count| {
        row([
            count.of,
            &count.capacity,
            &count.allocated.to_string(),
            &count.reserved.to_string(),
            &count.held.to_string(),
            &count.withheld,
            &count.free,
        ])
    }));
    *text += &indented(&columns(&counts));
    if !pool.namespaces.is_empty() {
        writeln!(text)?;
        *text += &indented(&columns(&namespaces(pool)));
    }
    if !pool.values.is_empty() {
        writeln!(text)?;
        *text += &indented(&columns(&values(pool)));
    }
    Ok(())
}

fn namespaces(pool: &PoolReport) -> Vec<Vec<String>> {
    let of: Vec<&str> = pool.counts.iter().map(|count| count.of).collect();
    let upper = of.iter().map(|of| of.to_uppercase());
    let head = std::iter::once("NAMESPACE".to_owned())
        .chain(upper)
        .chain(["LIMIT".to_owned()]);
    let mut rows = vec![head.collect()];
    rows.extend(pool.namespaces.iter().map(|namespace| {
        let used = of
            .iter()
            .map(|of| namespace.used.get(of).copied().unwrap_or(0).to_string());
        let limit = namespace
            .limit
            .map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        std::iter::once(namespace.namespace.clone())
            .chain(used)
            .chain([limit])
            .collect()
    }));
    rows
}

fn values(pool: &PoolReport) -> Vec<Vec<String>> {
    let head = if pool.kind == "NodePortPool" {
        "PORT"
    } else {
        "ADDRESS"
    };
    let mut rows = vec![row([head, "SERVICE", "WHY"])];
    rows.extend(pool.values.iter().map(|value| {
        let why = match &value.claim {
            Some(claim) => format!("{} by AddressClaim {claim}", value.ground),
            None => value.ground.to_owned(),
        };
        row([&value.value, &value.service, &why])
    }));
    rows
}

fn conflict_table(conflicts: &[Conflict]) -> String {
    let mut rows = vec![row(["REASON", "VALUE", "SERVICE", "POOL", "MESSAGE"])];
    rows.extend(conflicts.iter().map(|conflict| {
        let pool = conflict.pool.as_deref().unwrap_or("-");
        row([
            conflict.reason,
            &conflict.value,
            &conflict.service,
            pool,
            &conflict.message,
        ])
    }));
    columns(&rows)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Cells below each other, each column as wide as its widest cell, and nothing behind the last.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += line.join("   ").trim_end();
        text.push('\n');
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
