// SPDX-License-Identifier: Apache-2.0
//! One line about something that takes long: live on a terminal, a start line and an end line elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A task under way. Writes to stderr only.
pub(super) struct Progress {
    what: String,
    started: Instant,
    live: bool,
}

impl Progress {
    pub(super) fn start(what: &str) -> Self {
        let live = std::io::stderr().is_terminal();
        let progress = Self {
            what: what.to_owned(),
            started: Instant::now(),
            live,
        };
        if live {
            progress.draw("");
        } else {
            write_stderr(&format!("{what} ...\n"));
        }
        progress
    }

    /// Draws the live line anew; nothing where nobody watches.
    pub(super) fn tick(&mut self, step: &str) {
        if self.live {
            self.draw(&format!(", {step}"));
        }
    }

    pub(super) fn finish(self, outcome: &str) {
        let start = if self.live { "\r\x1b[K" } else { "" };
        write_stderr(&format!(
            "{start}{}: {outcome} after {}\n",
            self.what,
            spoken(self.started.elapsed())
        ));
    }

    fn draw(&self, step: &str) {
        write_stderr(&format!(
            "\r\x1b[K{}: {}{step}",
            self.what,
            spoken(self.started.elapsed())
        ));
    }
}

/// A closed stderr must not stop a build.
fn write_stderr(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// "42s", "5m 07s".
fn spoken(time: Duration) -> String {
    match (time.as_secs() / 60, time.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m {seconds:02}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m 00s"), (427, "7m 07s")] {
            assert_eq!(spoken(Duration::from_secs(seconds)), text);
        }
    }
}
