// SPDX-License-Identifier: Apache-2.0
//! What a process has used: CPU seconds, memory. Read from /proc, without starting anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// Between two looks at a process's anonymous memory, of which the kernel keeps no peak.
const LOOK: Duration = Duration::from_millis(20);

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all threads, also of those that have ended.
    pub(crate) cpu_seconds: f64,
    /// Resident, MiB.
    pub(crate) rss: f64,
    /// The greatest resident size so far, MiB.
    pub(crate) peak_rss: f64,
    /// Of the resident size, what no file stands behind: heap and stacks, MiB.
    pub(crate) anonymous: f64,
}

impl Usage {
    /// Looks at a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| path.clone())
        };
        let status = read("status")?;
        let status = sizes(&status);
        let size = |key: &str| {
            let found = status.get(key).copied();
            found.with_context(|| format!("no {key} in /proc/{pid}/status"))
        };
        Ok(Self {
            cpu_seconds: cpu_seconds(&read("stat")?).with_context(|| format!("/proc/{pid}/stat"))?,
            rss: size("VmRSS")?,
            peak_rss: size("VmHWM")?,
            anonymous: size("RssAnon")?,
        })
    }
}

/// What a process and its children use together: kube-proxy does most of its work in those it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Family {
    /// Of the process, and of its children that have ended and been waited for.
    pub(crate) cpu_seconds: f64,
    /// Resident, of the process and its children that run, MiB.
    pub(crate) rss: f64,
}

impl Family {
    /// Looks at a process and its children.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        let cpu = ticks(&stat, 4).with_context(|| format!("/proc/{pid}/stat"))?;
        let mut family = Self {
            cpu_seconds: cpu,
            rss: Usage::of(pid)?.rss,
        };
        let own = program(pid);
        // Between fork and exec a child is its parent once more, with the same pages.
        for child in children(pid).into_iter().filter(|child| program(*child) != own) {
            // One that has ended meanwhile counts for nothing here; its CPU comes by its parent.
            family.rss += Usage::of(child).map_or(0.0, |usage| usage.rss);
        }
        Ok(family)
    }
}

/// What a process runs.
fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Those of whom a process is the parent.
fn children(pid: u32) -> Vec<u32> {
    let numbered = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let is_child = |child: &u32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(1)?.parse().ok());
        parent == Some(pid)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(numbered).filter(is_child).collect()
}

/// CPU seconds of a process.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    Ok(Usage::of(pid)?.cpu_seconds)
}

/// utime and stime out of /proc/PID/stat, proc(5): fields 14 and 15.
fn cpu_seconds(stat: &str) -> Option<f64> {
    ticks(stat, 2)
}

/// The sum of so many fields from utime on (utime, stime, cutime, cstime), in seconds; counted behind the name, which
/// may hold anything.
fn ticks(stat: &str, fields: usize) -> Option<f64> {
    // USER_HZ, 100 on every architecture that this builds for.
    const TICKS: f64 = 100.0;
    let (_, behind) = stat.rsplit_once(')')?;
    let times = behind.split_whitespace().skip(11).take(fields);
    let times: Vec<f64> = times.map(|time| time.parse().ok()).collect::<Option<_>>()?;
    (times.len() == fields).then(|| times.iter().sum::<f64>() / TICKS)
}

/// The lines of /proc/PID/status that are sizes, in MiB.
fn sizes(status: &str) -> BTreeMap<&str, f64> {
    let size = |line: &'_ str| -> Option<f64> {
        let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib / 1024.0)
    };
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| Some((key, size(value)?)))
        .collect()
}

/// Watches the peak of something that the kernel keeps no peak of.
pub(crate) struct Peak {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peak {
    /// Of a process's anonymous memory. A process that has ended is looked at no more.
    pub(crate) fn of_anonymous(pid: u32) -> Self {
        Self::watch(move || Ok(Usage::of(pid)?.anonymous))
    }

    /// Of the resident size of a process with its children.
    pub(crate) fn of_family(pid: u32) -> Self {
        Self::watch(move || Ok(Family::of(pid)?.rss))
    }

    fn watch(look: impl Fn() -> Result<f64> + Send + 'static) -> Self {
        let (peak, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, asked) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                let Ok(size) = look() else { return };
                // Positive floats sort as their bits do.
                seen.fetch_max(size.to_bits(), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Self {
            peak,
            stop,
            thread: Some(thread),
        }
    }

    /// The peak so far, MiB.
    pub(crate) fn so_far(&self) -> f64 {
        f64::from_bits(self.peak.load(Ordering::Relaxed))
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The 1-minute load average, for the conditions of a figure.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "4711 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(ticks(&format!("{stat} 0"), 4), Some(3.0));
        assert_eq!(cpu_seconds("4711 (x) S 1"), None);
    }

    #[test]
    fn sizes_are_mebibytes() {
        let found = sizes("Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t512 kB\nThreads:\t3\n");
        assert_eq!(found, BTreeMap::from([("VmHWM", 2.0), ("RssAnon", 0.5)]));
    }

    #[test]
    fn a_child_counts_while_it_runs_and_after_it_was_waited_for() {
        let own = std::process::id();
        let before = Family::of(own).unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; read wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", busy])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(children(own).contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(Family::of(own).unwrap().cpu_seconds > before.cpu_seconds);
        assert!(!children(own).contains(&child.id()));
    }

    #[test]
    fn a_child_that_is_still_its_parents_program_takes_no_memory_of_its_own() {
        for (script, counts) in [("sh -c 'read wait; :'; :", false), ("cat; :", true)] {
            let mut parent = std::process::Command::new("sh")
                .args(["-c", script])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = parent.id();
            let child = loop {
                // Between fork and exec it is the parent's program in any case.
                let settled =
                    |child: &u32| program(*child).is_some() && (program(*child) != program(pid)) == counts;
                if let Some(child) = children(pid).into_iter().find(settled) {
                    break child;
                }
                std::thread::yield_now();
            };
            let (own, its) = (Usage::of(pid).unwrap().rss, Usage::of(child).unwrap().rss);
            let together = Family::of(pid).unwrap().rss;
            assert!(its > 0.0);
            assert_eq!(together > own, counts, "{script}: {together} of {own} and {its}");
            drop(parent.stdin.take());
            parent.wait().unwrap();
        }
    }

    #[test]
    fn this_very_process_has_used_something() {
        let before = Usage::of(std::process::id()).unwrap();
        let peak = Peak::of_anonymous(std::process::id());
        let filled = vec![1_u8; 64 << 20];
        while peak.so_far() < before.anonymous + 60.0 {
            std::thread::yield_now();
        }
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.peak_rss >= after.rss && after.rss >= after.anonymous);
        assert!(after.cpu_seconds >= before.cpu_seconds && filled.len() == 64 << 20);
    }
}
