// SPDX-License-Identifier: Apache-2.0
//! Test programs with a `main` of their own (`harness = false`), since they are other things besides: what `cargo test`
//! asks of them by their arguments, and what it prints of others.

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Instant;

/// A test and its name.
pub type Case<B> = (&'static str, B);

/// Those whose name has one of the words of the command line in it, or all; `None` where they were only to be listed,
/// which is done.
pub fn chosen<'a, B>(cases: &'a [Case<B>], arguments: &[String]) -> Option<Vec<&'a Case<B>>> {
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return None;
    }
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    Some(cases.iter().filter(|(name, _)| is_chosen(name)).collect())
}

/// Runs those that were chosen of `all`, one after the other, says how each ended, and with what the program ends.
pub fn run<B, E: Debug>(all: usize, chosen: &[&Case<B>], run: impl Fn(&B) -> Result<(), E>) -> ExitCode {
    println!("\nrunning {} tests", chosen.len());
    let started = Instant::now();
    let mut failed = 0;
    for (name, body) in chosen {
        let begun = Instant::now();
        let outcome = run(body);
        let took = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("test {name} ... ok ({took:.1} s)"),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED ({took:.1} s)\n{error:?}");
            }
        }
    }
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {outcome}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        chosen.len() - failed,
        all - chosen.len(),
        started.elapsed().as_secs_f64()
    );
    // As a program with the usual harness ends.
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [Case<bool>; 3] = [("a::good", true), ("a::bad", false), ("b", true)];

    fn names(arguments: &[&str]) -> Option<Vec<&'static str>> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let chosen = chosen(&CASES, &arguments)?;
        Some(chosen.iter().map(|(name, _)| *name).collect())
    }

    #[test]
    fn words_choose_and_flags_do_not() {
        assert_eq!(names(&[]).unwrap().len(), 3);
        assert_eq!(names(&["a::", "--nocapture"]).unwrap(), ["a::good", "a::bad"]);
        assert_eq!(names(&["good", "b"]).unwrap().len(), 3, "bad has a b, too");
        assert_eq!(names(&["nothing"]).unwrap().len(), 0);
        assert_eq!(names(&["--list"]), None);
    }

    #[test]
    fn one_that_fails_makes_the_program_fail() {
        let ended = |word: &str| {
            let chosen = chosen(&CASES, &[word.to_owned()]).unwrap();
            run(CASES.len(), &chosen, |good| good.then_some(()).ok_or("it is bad"))
        };
        assert_eq!(format!("{:?}", ended("good")), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(
            format!("{:?}", ended("a::")),
            format!("{:?}", ExitCode::from(101))
        );
    }
}
