// SPDX-License-Identifier: Apache-2.0
//! Judges the sources of a core. Pure.
//!
//! Clippy sees through aliases and re-exports but has no ban on whole modules, and an `#[allow]`
//! silences it. This scan reads the words that stand there: every path a source names, its `use`
//! trees spelled out, its tests left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::judge::Finding;

/// Consecutive segments of a path that a core may not name, and what to do instead.
const BANNED: &[(&str, &str)] = &[
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("Timestamp::now", "time is an argument"),
    ("Zoned::now", "time is an argument"),
    ("std::env", "configuration is an argument"),
    ("std::fs", "cores do no IO"),
    ("std::process", "cores do no IO"),
    ("std::os", "cores do no IO"),
    ("std::thread", "cores start nothing and do not wait"),
    ("TcpStream", "cores do no IO"),
    ("TcpListener", "cores do no IO"),
    ("UdpSocket", "cores do no IO"),
    ("UnixStream", "cores do no IO"),
    ("UnixDatagram", "cores do no IO"),
    ("io::stdin", "cores do no IO"),
    ("io::stdout", "cores do no IO"),
    ("io::stderr", "cores do no IO"),
    ("println!", "cores return values"),
    ("eprintln!", "cores return values"),
    ("RandomState", "randomness is an argument"),
    ("rand", "randomness is an argument"),
    ("getrandom", "randomness is an argument"),
    ("tokio", "cores are not asynchronous"),
];

/// Judges the files of one core, given as path and text.
pub(crate) fn outside_world(files: &[(PathBuf, String)]) -> Vec<Finding> {
    let parsed: Vec<(&Path, Source)> = files
        .iter()
        .map(|(path, text)| (path.as_path(), Source::parse(path, text)))
        .collect();
    let test_modules: BTreeSet<&Path> = parsed
        .iter()
        .flat_map(|(_, source)| source.test_modules.iter().map(PathBuf::as_path))
        .collect();
    let mut findings = Vec::new();
    for (path, source) in &parsed {
        if path
            .with_extension("")
            .ancestors()
            .any(|folder| test_modules.contains(folder))
        {
            continue;
        }
        for named in paths(&source.tokens) {
            if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| names(&named, banned)) {
                findings.push(Finding::Named {
                    file: path.display().to_string(),
                    path: named,
                    reason: (*reason).to_owned(),
                });
            }
        }
    }
    findings
}

/// Whether the segments of `banned` follow each other in `path`.
fn names(path: &str, banned: &str) -> bool {
    let segments: Vec<&str> = path.split("::").collect();
    let banned: Vec<&str> = banned.split("::").collect();
    segments.windows(banned.len()).any(|window| window == banned)
}

/// A file without comments, literals and tests.
struct Source {
    tokens: Vec<String>,
    /// Modules of other files that this one declares under `#[cfg(test)]`: their paths without `.rs`.
    test_modules: Vec<PathBuf>,
}

impl Source {
    fn parse(path: &Path, text: &str) -> Self {
        let all = tokens(text);
        let children = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") => path.parent().unwrap_or(path).to_path_buf(),
            _ => path.with_extension(""),
        };
        let mut source = Self {
            tokens: Vec::new(),
            test_modules: Vec::new(),
        };
        let mut rest = all.as_slice();
        while let Some((first, after)) = rest.split_first() {
            if starts_with(rest, &["#", "[", "cfg", "(", "test", ")", "]"]) {
                let (item, after) = split_item(&rest[7..]);
                if let [.., module, name, end] = item
                    && module == "mod"
                    && end == ";"
                {
                    source.test_modules.push(children.join(name));
                }
                rest = after;
            } else {
                source.tokens.push(first.clone());
                rest = after;
            }
        }
        source
    }
}

fn starts_with(tokens: &[String], expected: &[&str]) -> bool {
    tokens.len() >= expected.len()
        && tokens
            .iter()
            .zip(expected)
            .all(|(token, expected)| token == expected)
}

/// Splits after the first item: up to a `;` outside of braces, or to the brace that closes its body.
fn split_item(tokens: &[String]) -> (&[String], &[String]) {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return tokens.split_at(at + 1);
                }
            }
            ";" if depth == 0 => return tokens.split_at(at + 1),
            _ => {}
        }
    }
    (tokens, &[])
}

/// Every path that the tokens name; `use` trees give one for each leaf, a macro's ends in `!`.
fn paths(tokens: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at += 1;
            use_tree(tokens, &mut at, "", &mut found);
        } else if is_word(&tokens[at]) {
            let mut path = tokens[at].clone();
            while at + 2 < tokens.len() && tokens[at + 1] == "::" && is_word(&tokens[at + 2]) {
                at += 2;
                path = format!("{path}::{}", tokens[at]);
            }
            at += 1;
            if starts_with(&tokens[at..], &["!"]) && !starts_with(&tokens[at..], &["!", "="]) {
                path.push('!');
            }
            found.insert(path);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one branch of a `use` tree and stops at the token after it.
fn use_tree(tokens: &[String], at: &mut usize, prefix: &str, found: &mut BTreeSet<String>) {
    let mut path = prefix.to_owned();
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    let before = *at;
                    use_tree(tokens, at, &path, found);
                    // Past the comma, or past what is no part of a tree, such as an attribute.
                    if *at == before || tokens.get(*at).is_some_and(|token| token == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "as" => *at += 2,
            word if is_word(word) || word == "*" => {
                path = if path.is_empty() {
                    word.to_owned()
                } else {
                    format!("{path}::{word}")
                };
                *at += 1;
            }
            _ => break,
        }
    }
    found.insert(path);
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words and punctuation; `::` is one token. Comments and literals leave nothing.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found: Vec<String> = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let skip = comment(rest).or_else(|| string(rest)).or_else(|| character(rest));
        if let Some(length) = skip {
            at += length;
        } else if rest[0].is_alphanumeric() || rest[0] == '_' {
            // A raw identifier is one word: `r#use` imports nothing.
            let raw = if rest.starts_with(&['r', '#']) { 2 } else { 0 };
            let length = rest[raw..]
                .iter()
                .take_while(|c| c.is_alphanumeric() || **c == '_')
                .count();
            found.push(rest[..raw + length].iter().collect());
            at += raw + length;
        } else if rest.starts_with(&[':', ':']) {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !rest[0].is_whitespace() {
                found.push(rest[0].to_string());
            }
            at += 1;
        }
    }
    found
}

/// The length of the comment that starts here; block comments nest.
fn comment(rest: &[char]) -> Option<usize> {
    if rest.starts_with(&['/', '/']) {
        return Some(rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// The length of the string literal that starts here, prefixes (`b`, `c`, `r#`) included.
fn string(rest: &[char]) -> Option<usize> {
    let prefix = rest
        .iter()
        .take(2)
        .take_while(|c| matches!(c, 'b' | 'c' | 'r'))
        .count();
    let raw = prefix > 0 && rest[prefix - 1] == 'r';
    let hashes = if raw {
        rest[prefix..].iter().take_while(|c| **c == '#').count()
    } else {
        0
    };
    let start = prefix + hashes;
    if rest.get(start) != Some(&'"') {
        return None;
    }
    let mut at = start + 1;
    while at < rest.len() {
        if rest[at] == '\\' && !raw {
            at += 2;
        } else if rest[at] == '"'
            && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
        {
            return Some(at + 1 + hashes);
        } else {
            at += 1;
        }
    }
    Some(rest.len())
}

/// The length of the character literal or lifetime that starts here.
fn character(rest: &[char]) -> Option<usize> {
    if rest.first() != Some(&'\'') {
        return None;
    }
    match rest.get(1..3) {
        Some(['\\', _]) => Some(
            rest[3..]
                .iter()
                .position(|c| *c == '\'')
                .map_or(rest.len(), |end| end + 4),
        ),
        Some([_, '\'']) => Some(3),
        _ => Some(
            1 + rest[1..]
                .iter()
                .take_while(|c| c.is_alphanumeric() || **c == '_')
                .count(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect();
        let paths = outside_world(&files).into_iter().map(|finding| {
            let Finding::Named { path, .. } = finding else {
                panic!("{finding}")
            };
            path
        });
        paths.collect()
    }

    /// Behaviour, source, the paths found.
    const SOURCES: &[(&str, &str, &str)] = &[
        (
            "an argument of type Instant is fine",
            "use std::time::Instant; fn f(now: Instant) {}",
            "",
        ),
        (
            "reading the clock is found",
            "fn f() { let t = std::time::Instant::now(); }",
            "std::time::Instant::now",
        ),
        (
            "jiff's clock is found",
            "fn f() { jiff::Timestamp::now() }",
            "jiff::Timestamp::now",
        ),
        (
            "an environment read is found",
            "fn f() { std::env::var(\"X\") }",
            "std::env::var",
        ),
        (
            "compile-time environment is fine",
            "const V: &str = env!(\"CARGO_PKG_VERSION\");",
            "",
        ),
        (
            "a grouped import is spelled out",
            "use std::{fmt, env as e};",
            "std::env",
        ),
        (
            "a nested import is spelled out",
            "use std::{net::{IpAddr, UdpSocket}, fmt};",
            "std::net::UdpSocket",
        ),
        ("addresses are fine", "use std::net::{IpAddr, Ipv4Addr};", ""),
        ("a glob is found", "use std::fs::*;", "std::fs::*"),
        ("printing is found", "fn f() { println!(\"x\") }", "println!"),
        (
            "words in comments do not count",
            "// std::env\n/* std::fs /* std::fs */ std::env */ fn f() {}",
            "",
        ),
        (
            "words in strings do not count",
            "const A: &str = \"\\\" std::env\"; const B: &str = r#\"\" std::fs \"#;",
            "",
        ),
        (
            "code after a string counts",
            "const A: &str = \"\\\\\"; fn f() { std::fs::read(A) }",
            "std::fs::read",
        ),
        (
            "code after a lifetime counts",
            "fn f<'a>(c: &'a u8) { '\\''; 'x'; std::fs::read(c) }",
            "std::fs::read",
        ),
        (
            "tests do not count",
            "#[cfg(test)]\nmod tests { fn f() { std::fs::read(\"x\") } }",
            "",
        ),
        (
            "code after the tests counts",
            "#[cfg(test)] mod t { fn f() {} } fn g() { std::fs::read(A) }",
            "std::fs::read",
        ),
        (
            "a field called use is not an import",
            "struct S { r#use: u8 } fn f(s: S) -> T { T { r#use: s.r#use, a: { std::env::vars() } } }",
            "std::env::vars",
        ),
        (
            "an attribute inside of an import does not stop the scan",
            "use std::{#[cfg(unix)] fmt, process};",
            "std::process",
        ),
        (
            "a field called rand_like is fine",
            "struct S { rand_like: u8 }",
            "",
        ),
        (
            "the rand crate is found",
            "fn f() { rand::random() }",
            "rand::random",
        ),
    ];

    #[test]
    fn sources_table() {
        for (behaviour, source, expected) in SOURCES {
            assert_eq!(
                named(&[("src/lib.rs", source)]).join(" "),
                *expected,
                "{behaviour}"
            );
        }
    }

    #[test]
    fn modules_declared_for_tests_do_not_count_and_others_do() {
        let lib = ("src/lib.rs", "mod plan; #[cfg(test)] mod golden;");
        let plan = ("src/plan.rs", "#[cfg(test)] mod tests; mod diff;");
        let read = "fn f() { std::fs::read(A) }";
        let tests = [
            lib,
            plan,
            ("src/golden.rs", read),
            ("src/golden/a.rs", read),
            ("src/plan/tests.rs", read),
        ];
        assert_eq!(named(&tests), Vec::<String>::new());
        assert_eq!(named(&[lib, plan, ("src/plan/diff.rs", read)]), ["std::fs::read"]);
    }
}
