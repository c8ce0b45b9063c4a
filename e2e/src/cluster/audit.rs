// SPDX-License-Identifier: Apache-2.0
//! The API server's audit log: who asked for what, when, and did Berth ask for anything that its roles do not allow?

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::Deserialize;

/// Answered requests of whom the policy names, without bodies.
const POLICY: &str = r"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: Metadata, WHOM}
  - level: None
";

/// Where the API server notes which token a user was authenticated by (KEP-4193).
pub(crate) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

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

/// One answered request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: String,
    /// The path asked for.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// When it came in.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: MicroTime,
    /// When it was answered.
    #[serde(rename = "stageTimestamp")]
    pub answered: MicroTime,
    /// What it was about; absent for paths that are no resources.
    pub object_ref: Option<Object>,
    user: User,
    response_status: Option<Status>,
}

/// What a request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Object {
    /// As in the path: "endpointslices".
    pub resource: String,
    /// Its namespace, where it has one.
    pub namespace: Option<String>,
    /// Its name; the server chooses it for some creations.
    pub name: Option<String>,
    /// "status", "token".
    pub subresource: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Status {
    code: Option<u16>,
}

impl Request {
    /// Who asked.
    pub fn user(&self) -> &str {
        &self.user.username
    }

    /// Which token was presented: tells processes of one service account apart (see `CREDENTIAL`).
    pub fn credential(&self) -> Option<&str> {
        self.user.extra.get(CREDENTIAL)?.first().map(String::as_str)
    }

    /// The HTTP status that it was answered with.
    pub fn code(&self) -> Option<u16> {
        self.response_status.as_ref().and_then(|status| status.code)
    }

    /// Whether it asked for a change.
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }

    /// The kind of object it was about; empty for paths that are no resources.
    pub fn resource(&self) -> &str {
        self.object_ref
            .as_ref()
            .map_or("", |object| object.resource.as_str())
    }

    /// The name of the object, empty where the server was to choose it.
    pub fn name(&self) -> &str {
        self.object_ref
            .as_ref()
            .and_then(|object| object.name.as_deref())
            .unwrap_or_default()
    }

    /// The namespace of the object, empty where there is none.
    pub fn namespace(&self) -> &str {
        self.object_ref
            .as_ref()
            .and_then(|object| object.namespace.as_deref())
            .unwrap_or_default()
    }
}

/// One line: "update /api/v1/... 200 by USER".
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code().unwrap_or_default();
        write!(f, "{} {} {code} by {}", self.verb, self.uri, self.user())
    }
}

impl Audit {
    /// Writes the policy beside where the log will be: requests of Berth's service accounts.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn prepare(folder: &Path) -> Result<Self> {
        Self::of(folder, r#"userGroups: ["system:serviceaccounts:berth-system"]"#)
    }

    /// As [`Audit::prepare`], for requests of the users of these names.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn of_users(folder: &Path, users: &[&str]) -> Result<Self> {
        Self::of(folder, &format!("users: {users:?}"))
    }

    fn of(folder: &Path, whom: &str) -> Result<Self> {
        let policy = POLICY.replace("WHOM", whom);
        let this = Self {
            policy: folder.join("audit-policy.yaml"),
            log: folder.join("audit.log"),
        };
        std::fs::write(&this.policy, policy).with_context(|| this.policy.display().to_string())?;
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
            .filter(|request| request.code() == Some(403))
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_403_is_found_in_the_log_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::prepare(folder.path()).unwrap();
        let time = "2026-11-22T20:00:00.000001Z";
        let line = |code: u16, verb: &str| {
            json!({
                "verb": verb, "requestURI": "/api/v1/x", "user": {"username": "u"}, "responseStatus": {"code": code},
                "requestReceivedTimestamp": time, "stageTimestamp": time,
            })
            .to_string()
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
