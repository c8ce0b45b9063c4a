// SPDX-License-Identifier: Apache-2.0
//! The API server's audit log: did Berth ask for anything that its roles do not allow?

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// Only what Berth's service accounts ask for, answered requests, without bodies.
const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    userGroups: ["system:serviceaccounts:berth-system"]
  - level: None
"#;

/// The audit log of one API server.
#[derive(Clone, Debug)]
pub struct Audit {
    policy: PathBuf,
    log: PathBuf,
}

/// A request that was answered 403.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// The service account.
    pub user: String,
    /// The verb.
    pub verb: String,
    /// The path asked for.
    pub uri: String,
}

/// One answered request of one of Berth's service accounts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// get, list, watch, create, update, patch, delete.
    pub verb: String,
    /// The path asked for.
    #[serde(rename = "requestURI")]
    pub uri: String,
    user: User,
    response_status: Option<Status>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Status {
    code: Option<u16>,
}

impl Request {
    /// The service account that asked.
    pub fn user(&self) -> &str {
        &self.user.username
    }
}

impl Audit {
    /// Writes the policy beside where the log will be.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn prepare(folder: &Path) -> Result<Self> {
        let this = Self {
            policy: folder.join("audit-policy.yaml"),
            log: folder.join("audit.log"),
        };
        std::fs::write(&this.policy, POLICY).with_context(|| this.policy.display().to_string())?;
        Ok(this)
    }

    /// What kube-apiserver has to be started with.
    pub fn apiserver_flags(&self) -> Vec<String> {
        vec![
            format!("--audit-policy-file={}", self.policy.display()),
            format!("--audit-log-path={}", self.log.display()),
            // Written as it happens: the default of the log back-end is blocking already, but say so.
            "--audit-log-mode=blocking".to_owned(),
        ]
    }

    /// Every answered request, in order.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let text = std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        // The last line may be half written.
        let (whole, _rest) = text.rsplit_once('\n').unwrap_or(("", &text));
        let request = |line: &str| serde_json::from_str(line).with_context(|| format!("audit log: {line}"));
        whole.lines().map(request).collect()
    }

    /// Requests answered 403, each once.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn refused(&self) -> Result<Vec<Refused>> {
        let mut refused: Vec<_> = self
            .requests()?
            .into_iter()
            .filter(|request| request.response_status.as_ref().and_then(|status| status.code) == Some(403))
            .map(|request| Refused {
                user: request.user.username,
                verb: request.verb,
                uri: request.uri,
            })
            .collect();
        refused.sort();
        refused.dedup();
        Ok(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_403_is_found_in_the_log_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::prepare(folder.path()).unwrap();
        let line = |code: u16, verb: &str| {
            format!(
                r#"{{"verb":"{verb}","requestURI":"/api/v1/x","user":{{"username":"u"}},"responseStatus":{{"code":{code}}}}}"#
            )
        };
        let text = [
            line(200, "get"),
            line(403, "list"),
            line(403, "list"),
            line(409, "update"),
            "{half".to_owned(),
        ];
        std::fs::write(&audit.log, text.join("\n")).unwrap();
        let expected = Refused {
            user: "u".to_owned(),
            verb: "list".to_owned(),
            uri: "/api/v1/x".to_owned(),
        };
        assert_eq!(audit.refused().unwrap(), [expected]);
        assert_eq!(audit.requests().unwrap().len(), 4);
    }
}
