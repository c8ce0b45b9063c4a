// SPDX-License-Identifier: Apache-2.0
//! Lets a `#[test]` run itself again inside the sandbox.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{inner, is_inside, outer};
use crate::Error;

/// A test that has not ended by then hangs.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Runs the rest of a `#[test]` in the sandbox: `in_sandbox!({ ...; anyhow::Ok(()) })`.
///
/// The body is a block with a `Result` as its value.
#[macro_export]
macro_rules! in_sandbox {
    ($body:expr) => {{
        fn here() {}
        $crate::sandbox::run_test(
            &$crate::sandbox::name_from(::std::any::type_name_of_val(&here)),
            || $body,
        )
    }};
}

/// Like [`in_sandbox!`] for an async block, on a multi-threaded tokio runtime made inside:
/// `in_sandbox_async!(async { ...; anyhow::Ok(()) })`.
#[macro_export]
macro_rules! in_sandbox_async {
    ($body:expr) => {{
        fn here() {}
        $crate::sandbox::run_async_test(
            &$crate::sandbox::name_from(::std::any::type_name_of_val(&here)),
            || $body,
        )
    }};
}

/// The name by which libtest knows a test, from the full path of a function inside it.
pub fn name_from(path: &str) -> String {
    let inside_crate = path.split_once("::").map_or(path, |(_, rest)| rest);
    inside_crate.trim_end_matches("::here").to_owned()
}

/// Inside the sandbox runs the body; outside runs this same test, `name`, again inside and
/// passes its output on.
///
/// # Panics
/// Fails the test: on an error of the body, when the inner run failed, when it ran no test (a wrong name), when it hangs.
#[expect(clippy::panic, reason = "a test fails by a panic")]
pub fn run_test<E: Debug>(name: &str, body: impl FnOnce() -> Result<(), E>) {
    if is_inside() {
        if let Err(error) = inner::prepare() {
            panic!("{name}: {error}");
        }
        if let Err(error) = body() {
            panic!("{name}: {error:?}");
        }
        return;
    }
    match run_again(name) {
        Ok((status, true)) if status.success() => {}
        Ok((status, true)) => panic!("{name} failed in the sandbox ({status})"),
        Ok((status, false)) => {
            panic!("{name}: the run in the sandbox passed no test of this name ({status})")
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// [`run_test`] for an async body.
///
/// # Panics
/// As [`run_test`].
pub fn run_async_test<E: Debug + From<Error>, F: Future<Output = Result<(), E>>>(
    name: &str,
    body: impl FnOnce() -> F,
) {
    run_test(name, || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Error::io("start a tokio runtime"))?;
        runtime.block_on(body())
    });
}

fn run_again(name: &str) -> Result<(ExitStatus, bool), Error> {
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"].map(OsString::from);
    let mut child = outer::command(arguments)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("start setpriv"))?;
    let stdout = child
        .stdout
        .take()
        .map(|pipe| copy(pipe, |line| println!("{line}")));
    let stderr = child
        .stderr
        .take()
        .map(|pipe| copy(pipe, |line| eprintln!("{line}")));
    let status = wait(&mut child, name)?;
    let passed = [stdout, stderr]
        .into_iter()
        .flatten()
        .filter_map(|copier| copier.join().ok())
        .any(|seen| seen);
    Ok((status, passed))
}

/// Passes lines on, through the output capture of libtest; true if libtest reported the one test.
fn copy(pipe: impl Read + Send + 'static, print: fn(&str)) -> JoinHandle<bool> {
    thread::spawn(move || {
        let mut reported = false;
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            reported |= text.starts_with("test result:")
                && (text.contains(" 1 passed; 0 failed") || text.contains(" 0 passed; 1 failed"));
            print(text);
            line.clear();
        }
        reported
    })
}

fn wait(child: &mut Child, name: &str) -> Result<ExitStatus, Error> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for the sandbox"))? {
            return Ok(status);
        }
        if started.elapsed() > DEADLINE {
            child.kill().map_err(Error::io("end the sandbox"))?;
            child.wait().map_err(Error::io("wait for the sandbox"))?;
            return Err(Error::Deadline {
                what: format!("end of test {name}"),
                waited: DEADLINE,
                last: "still running; killed".to_owned(),
            });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::name_from;

    #[test]
    fn name_is_the_path_without_crate_and_marker() {
        for (path, name) in [
            ("lan::cut_heals::here", "cut_heals"),
            ("e2e::proxy::spread::here", "proxy::spread"),
            ("x", "x"),
        ] {
            assert_eq!(name_from(path), name, "{path}");
        }
    }
}
