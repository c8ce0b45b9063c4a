// SPDX-License-Identifier: Apache-2.0
//! Flags of the admission webhook.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

use super::certificates::Names;
use super::registration::{PATH, Registration, Target};

/// What the API server does with a Service when it can't reach the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailurePolicy {
    /// Goes on by itself: the Service is made, and may get a value outside its pool, which is counted and reported
    #[value(name = "Ignore")]
    Ignore,
    /// Refuses the write: every Service gets its values from its pool, and none is made while no replica answers
    #[value(name = "Fail")]
    Fail,
}

impl FailurePolicy {
    /// The spelling of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "Ignore",
            Self::Fail => "Fail",
        }
    }
}

impl fmt::Display for FailurePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the webhook answers when it is reached, and nobody can say which values to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UnavailablePolicy {
    /// Let the API server go on by itself, with a warning to the user
    Admit,
    /// Refuse with 503 and the request to try again
    Refuse,
}

impl UnavailablePolicy {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for UnavailablePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Flags that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionArgsError {
    /// API servers only call `https`, and nothing of the URL may be beside host, port and path.
    #[error(
        "--admission-url {0:?} is no URL that API servers call; write https://HOST:PORT, without user, query and fragment"
    )]
    Url(String),
}

/// The admission webhook.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Admission webhook")]
pub struct AdmissionArgs {
    /// Address on which admission reviews are answered, by HTTPS; 0.0.0.0 means every address of both families
    #[arg(
        long,
        env = "BERTH_ADMISSION_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:10359"
    )]
    pub admission_address: SocketAddr,

    /// Service in Berth's own namespace by which API servers reach the webhook
    #[arg(
        long,
        env = "BERTH_ADMISSION_SERVICE",
        value_name = "NAME",
        default_value = "berth-admission"
    )]
    pub admission_service: String,

    /// Port of that Service
    #[arg(long, env = "BERTH_ADMISSION_SERVICE_PORT", value_name = "PORT", default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..))]
    pub admission_service_port: u16,

    /// URL by which API servers reach the webhook instead, where they can't reach Services: https://HOST:PORT
    #[arg(long, env = "BERTH_ADMISSION_URL", value_name = "URL")]
    pub admission_url: Option<String>,

    /// What API servers do when they can't reach the webhook
    #[arg(
        long,
        env = "BERTH_ADMISSION_FAILURE_POLICY",
        value_name = "POLICY",
        value_enum,
        ignore_case = true,
        default_value = "Ignore"
    )]
    pub admission_failure_policy: FailurePolicy,

    /// What is answered when nobody can say which values to give. Default: admit with Ignore, refuse with Fail
    #[arg(long, env = "BERTH_ADMISSION_UNAVAILABLE", value_name = "POLICY", value_enum)]
    pub admission_unavailable: Option<UnavailablePolicy>,

    /// Seconds that API servers wait for an answer
    #[arg(long, env = "BERTH_ADMISSION_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=30))]
    pub admission_timeout_seconds: u8,

    /// Namespaces that pools do not apply to, beside kube-system and Berth's own
    #[arg(
        long,
        env = "BERTH_ADMISSION_EXEMPT_NAMESPACES",
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub admission_exempt_namespaces: Vec<String>,
}

impl AdmissionArgs {
    /// How API servers reach the webhook.
    ///
    /// # Errors
    /// The URL is none that they call.
    pub fn target(&self, own_namespace: &str) -> Result<Target, AdmissionArgsError> {
        let Some(text) = &self.admission_url else {
            return Ok(Target::Service {
                namespace: own_namespace.to_owned(),
                name: self.admission_service.clone(),
                port: self.admission_service_port,
            });
        };
        let (scheme, host) = host_of(text).ok_or_else(|| AdmissionArgsError::Url(text.clone()))?;
        if scheme != "https" || host.is_empty() || text.contains(['?', '#', '@']) {
            return Err(AdmissionArgsError::Url(text.clone()));
        }
        Ok(Target::Url(format!("{}{PATH}", text.trim_end_matches('/'))))
    }

    /// What the certificate has to name.
    ///
    /// # Errors
    /// The URL is none that API servers call.
    pub fn names(&self, own_namespace: &str) -> Result<Names, AdmissionArgsError> {
        match self.target(own_namespace)? {
            Target::Service { namespace, name, .. } => Ok(Names::of_service(&namespace, &name)),
            Target::Url(url) => {
                let (_, host) = host_of(&url).ok_or(AdmissionArgsError::Url(url))?;
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                Ok(match IpAddr::from_str(bare) {
                    Ok(address) => Names {
                        addresses: vec![address],
                        ..Names::default()
                    },
                    Err(_) => Names {
                        dns: vec![host],
                        ..Names::default()
                    },
                })
            }
        }
    }

    /// The registration, less the authorities to trust.
    ///
    /// # Errors
    /// The URL is none that API servers call.
    pub fn registration(&self, own_namespace: &str) -> Result<Registration, AdmissionArgsError> {
        Ok(Registration {
            target: self.target(own_namespace)?,
            failure_policy: self.admission_failure_policy,
            timeout_seconds: self.admission_timeout_seconds,
            exempt_namespaces: self.exempt_namespaces(own_namespace),
        })
    }

    /// Berth's own namespace and those that the user names. `kube-system` is exempt in any case.
    pub fn exempt_namespaces(&self, own_namespace: &str) -> BTreeSet<String> {
        let named = self.admission_exempt_namespaces.iter().cloned();
        named.chain([own_namespace.to_owned()]).collect()
    }

    /// What is answered when nobody can say. By default what the failure policy promises.
    pub fn unavailable(&self) -> UnavailablePolicy {
        self.admission_unavailable
            .unwrap_or(match self.admission_failure_policy {
                FailurePolicy::Ignore => UnavailablePolicy::Admit,
                FailurePolicy::Fail => UnavailablePolicy::Refuse,
            })
    }

    /// How long API servers wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.admission_timeout_seconds))
    }
}

fn host_of(url: &str) -> Option<(String, String)> {
    let uri = Uri::from_str(url).ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.host()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AdmissionArgs,
    }

    fn parse(flags: &[&str]) -> Result<AdmissionArgs, clap::Error> {
        let flags = std::iter::once("controllers").chain(flags.iter().copied());
        Cli::try_parse_from(flags).map(|cli| cli.args)
    }

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_answered_follows_the_failure_policy_unless_it_is_said() {
        let said = |flags: &[&str]| parse(flags).unwrap().unavailable().as_str();
        assert_eq!(said(&[]), "admit");
        assert_eq!(said(&["--admission-failure-policy=Fail"]), "refuse");
        assert_eq!(said(&["--admission-failure-policy=fail"]), "refuse");
        assert_eq!(said(&["--admission-unavailable=refuse"]), "refuse");
        let fail = ["--admission-failure-policy=Fail", "--admission-unavailable=admit"];
        assert_eq!(said(&fail), "admit");
    }

    #[test]
    fn the_certificate_names_what_api_servers_call() {
        let names = |flags: &[&str]| parse(flags).unwrap().names("berth-system").unwrap();
        assert_eq!(names(&[]).dns, ["berth-admission.berth-system.svc"]);
        assert_eq!(names(&["--admission-service=a"]).dns, ["a.berth-system.svc"]);
        let v6 = names(&["--admission-url=https://[fd00::1]:8443/"]);
        assert_eq!(v6.addresses, ["fd00::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            names(&["--admission-url=https://berth.example:8443"]).dns,
            ["berth.example"]
        );
    }

    #[test]
    fn a_url_that_api_servers_do_not_call_is_refused_with_the_flag_named() {
        for url in [
            "http://a",
            "a:8443",
            "",
            "https://a?x=1",
            "https://u@a",
            "https://",
        ] {
            let args = parse(&[&format!("--admission-url={url}")]).unwrap();
            let error = args.target("berth-system").unwrap_err().to_string();
            assert!(error.contains("--admission-url"), "{error}");
        }
        let args = parse(&["--admission-url=https://a:8443"]).unwrap();
        let target = Target::Url("https://a:8443/mutate-services".to_owned());
        assert_eq!(args.target("berth-system"), Ok(target));
    }

    #[test]
    fn berths_own_namespace_is_exempt() {
        let args = parse(&["--admission-exempt-namespaces=a,b"]).unwrap();
        let exempt: Vec<String> = args.exempt_namespaces("berth-system").into_iter().collect();
        assert_eq!(exempt, ["a", "b", "berth-system"]);
        assert!(parse(&["--admission-timeout-seconds=31"]).is_err());
    }
}
