// SPDX-License-Identifier: Apache-2.0
//! Something that takes long: a line at its start and one at its end, and on a terminal a live one between them.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A task under way. Writes to stderr only.
pub(super) struct Progress {
    what: String,
    started: Instant,
    live: bool,
}

impl Progress {
    /// `note` is what to expect, as how long it takes.
    pub(super) fn start(what: impl Into<String>, note: &str) -> Self {
        let what = what.into();
        write_stderr(&format!("{what} ({note}) ...\n"));
        Self {
            what,
            started: Instant::now(),
            live: std::io::stderr().is_terminal(),
        }
    }

    /// Draws the live line anew; nothing where nobody watches. A `step` that does not fit a terminal of 80 columns
    /// spoils the drawing.
    pub(super) fn tick(&self, step: &str) {
        if self.live {
            write_stderr(&format!("\r\x1b[K  {}, {step}", spoken(self.started.elapsed())));
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
