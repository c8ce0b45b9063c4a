// SPDX-License-Identifier: Apache-2.0
//! A stream of datagrams at a fixed rate: for how long did nobody answer?

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use crate::netns::Netns;
use crate::probe::{parse, udp_socket};

/// How to ask.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Between two datagrams; the finest gap that can be seen.
    pub interval: Duration,
    /// A new port for every datagram, so that each is a connection of its own to the nodes; otherwise
    /// all are one connection, which keeps its Pod.
    pub new_ports: bool,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(10),
            new_ports: true,
        }
    }
}

/// A time without answers: from the sending of the first unanswered datagram to that of the next answered one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Since the stream's start.
    pub at: Duration,
    /// How long; up to the stream's end if nothing was answered any more.
    pub length: Duration,
    /// Datagrams lost.
    pub lost: usize,
}

/// What became of a stream.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Datagrams sent.
    pub sent: usize,
    /// Answered ones.
    pub answered: usize,
    /// Answers by Pod.
    pub pods: BTreeMap<String, usize>,
    /// Times without answers, in order.
    pub gaps: Vec<Gap>,
}

impl Report {
    /// The longest time without answers; zero if all were answered.
    pub fn longest_gap(&self) -> Duration {
        self.gaps.iter().map(|gap| gap.length).max().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent, answered, gaps, ..
        } = self;
        write!(
            f,
            "{answered} of {sent} answered, {} gaps, longest {:?}",
            gaps.len(),
            self.longest_gap()
        )
    }
}

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    answers: Arc<std::sync::atomic::AtomicUsize>,
    thread: JoinHandle<Report>,
}

/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

impl Stream {
    /// Starts asking `address`, where `berth-testpod` is to answer by UDP, from a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(netns: &Netns, address: SocketAddr, rate: Rate) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answers));
        // Threads inherit the namespace of the one that starts them.
        let thread = netns.run(|| thread::spawn(move || ask(address, rate, &stopped, &count)))?;
        Ok(Self {
            stop,
            answers,
            thread,
        })
    }

    /// Answers so far.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Stops asking, waits a second for the last answers, and counts.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// One datagram's fate: when sent, and by whom answered.
struct Asked {
    at: Duration,
    pod: Option<String>,
}

fn ask(
    address: SocketAddr,
    rate: Rate,
    stop: &AtomicBool,
    count: &Arc<std::sync::atomic::AtomicUsize>,
) -> Report {
    let started = Instant::now();
    let (answered, answers) = mpsc::channel::<(usize, String)>();
    let mut asked = Vec::new();
    let mut shared = None;
    let mut next = started;
    while !stop.load(Ordering::Relaxed) {
        let number = asked.len();
        asked.push(Asked {
            at: started.elapsed(),
            pod: None,
        });
        if rate.new_ports || shared.is_none() {
            shared = open(address, &answered, count);
        }
        if let Some(socket) = &shared {
            // A failure here (no route, an ICMP error of an earlier one) leaves this one unanswered.
            let _unsent = socket.send(format!("#{number}").as_bytes());
        }
        next += rate.interval;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let ended = started.elapsed();
    drop((answered, shared));
    // Ends when the last receiver has: one patience after the last datagram.
    for (number, pod) in answers {
        if let Some(asked) = asked.get_mut(number) {
            asked.pod = Some(pod);
        }
    }
    report(&asked, ended)
}

/// A socket and its receiver, which ends when nothing has come for the time of patience.
fn open(
    address: SocketAddr,
    answered: &mpsc::Sender<(usize, String)>,
    count: &Arc<std::sync::atomic::AtomicUsize>,
) -> Option<Arc<UdpSocket>> {
    let socket = Arc::new(udp_socket(address).ok()?);
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let (receiver, answered, count) = (Arc::clone(&socket), answered.clone(), Arc::clone(count));
    let receive = move || {
        let mut datagram = [0; 512];
        // A shared socket lives on in the sender; the receiver of a single question ends with its answer.
        while let Some(length) = next_datagram(&receiver, &mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..length]);
            let number = text
                .split_whitespace()
                .nth(2)
                .and_then(|word| word.strip_prefix('#')?.parse().ok());
            if let (Some(number), Ok(answer)) = (number, parse(&text)) {
                count.fetch_add(1, Ordering::Relaxed);
                if answered.send((number, answer.pod)).is_err() {
                    return;
                }
            }
        }
    };
    const STACK: usize = 64 * 1024;
    thread::Builder::new().stack_size(STACK).spawn(receive).ok()?;
    Some(socket)
}

/// `None` once nothing came for the time of patience and the sender has let go of the socket.
fn next_datagram(receiver: &Arc<UdpSocket>, datagram: &mut [u8]) -> Option<usize> {
    loop {
        match receiver.recv(datagram) {
            Ok(length) => return Some(length),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Arc::strong_count(receiver) == 1 {
                    return None;
                }
            }
            // ICMP errors arrive here one by one, with the next datagram still to come.
            Err(_icmp) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn report(asked: &[Asked], ended: Duration) -> Report {
    let mut report = Report {
        sent: asked.len(),
        ..Report::default()
    };
    let mut silent: Option<Gap> = None;
    for Asked { at, pod } in asked {
        match pod {
            Some(pod) => {
                report.answered += 1;
                *report.pods.entry(pod.clone()).or_default() += 1;
                report.gaps.extend(silent.take().map(|gap| Gap {
                    length: *at - gap.at,
                    ..gap
                }));
            }
            None => {
                silent
                    .get_or_insert(Gap {
                        at: *at,
                        length: Duration::ZERO,
                        lost: 0,
                    })
                    .lost += 1
            }
        }
    }
    report.gaps.extend(silent.map(|gap| Gap {
        length: ended.saturating_sub(gap.at),
        ..gap
    }));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_run_from_the_first_lost_to_the_next_answered_datagram() {
        let ms = Duration::from_millis;
        let gap = |at, length, lost| Gap {
            at: ms(at),
            length: ms(length),
            lost,
        };
        let table: &[(&str, &str, Vec<Gap>)] = &[
            ("nothing lost", "aaa", vec![]),
            ("one lost", "a.a", vec![gap(10, 10, 1)]),
            (
                "several lost in two gaps",
                "a..a.a",
                vec![gap(10, 20, 2), gap(40, 10, 1)],
            ),
            ("lost to the end", "a..", vec![gap(10, 20, 2)]),
            ("never answered", "...", vec![gap(0, 30, 3)]),
        ];
        for (what, fates, gaps) in table {
            let asked: Vec<Asked> = (0..)
                .step_by(10)
                .zip(fates.chars())
                .map(|(at, fate)| Asked {
                    at: ms(at),
                    pod: (fate == 'a').then(|| "web".to_owned()),
                })
                .collect();
            let report = report(&asked, ms(10 * fates.len() as u64));
            assert_eq!(&report.gaps, gaps, "{what}");
            assert_eq!(report.answered, fates.matches('a').count(), "{what}");
        }
    }
}
