// SPDX-License-Identifier: Apache-2.0
//! Waiting for a state instead of for a time.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::Error;

/// Between the first two looks at a condition; then twice as long each time, up to [`SLOWEST`].
const FIRST: Duration = Duration::from_millis(1);
const SLOWEST: Duration = Duration::from_millis(50);

/// Looks at a condition again and again until it holds and returns what it then gave.
///
/// # Errors
/// At the deadline, with the last error that the condition gave.
pub async fn eventually<T, E, F>(
    what: impl Display,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, Error>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    let mut pause = FIRST;
    let mut last = String::from("no answer from the first look");
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left.max(SLOWEST), condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error.to_string(),
            Err(_elapsed) => {}
        }
        if started.elapsed() >= deadline {
            return Err(Error::Deadline {
                what: what.to_string(),
                waited: deadline,
                last,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SLOWEST);
    }
}

/// [`eventually`] for code without a runtime.
///
/// # Errors
/// At the deadline, with the last error that the condition gave.
pub fn eventually_blocking<T, E: Display>(
    what: impl Display,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> Result<T, Error> {
    let started = Instant::now();
    let mut pause = FIRST;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() >= deadline => {
                return Err(Error::Deadline {
                    what: what.to_string(),
                    waited: deadline,
                    last: error.to_string(),
                });
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(SLOWEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_until_the_condition_holds_and_names_the_last_error_otherwise() {
        let mut looks = 0;
        let seen = eventually("third look", Duration::from_secs(30), || {
            looks += 1;
            let look = looks;
            async move {
                if look == 3 {
                    Ok(look)
                } else {
                    Err(format!("look {look}"))
                }
            }
        })
        .await;
        assert_eq!(seen.expect("the third look succeeds"), 3);

        let never = eventually("never", Duration::ZERO, || async { Err::<(), _>("still down") }).await;
        let message = never.expect_err("the condition never holds").to_string();
        assert!(
            message.contains("never") && message.contains("still down"),
            "{message}"
        );
    }
}
