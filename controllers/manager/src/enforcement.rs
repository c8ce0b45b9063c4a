// SPDX-License-Identifier: Apache-2.0
//! Keeps the ValidatingAdmissionPolicies by which API servers hold what was decided, on the replica that leads.
//!
//! In: pools and claims as the book has them. Out: two policies and their bindings. Touches: the API server.
//! `berth_controllers_core::enforcement` decides what they say.
//!
//! They are written when pools change, put right when somebody else changes them, and taken away when the last pool of their
//! kind is gone. What stands at the end of a process stays: another replica takes over.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use berth_controllers_core::admission::Exemptions;
use berth_controllers_core::enforcement::{Action, Enforced, LeftOut, Observed, Plan, Subject, plan};
use berth_runtime::backoff::{Backoff, jitter};
use berth_runtime::client::explain;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{FailurePolicy, UnavailablePolicy};

const FIELD_MANAGER: &str = "berth-controllers";
/// Between two rounds of writes: API servers take up changes once a second, and two leaders of a moment must not write
/// against each other faster.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(250),
    cap: Duration::from_secs(10),
};

/// What becomes of a breach under the operator's flags: it is refused only where the webhook refuses too what nobody
/// answers for.
pub fn action(failure: FailurePolicy, unavailable: UnavailablePolicy) -> Action {
    match (failure, unavailable) {
        (FailurePolicy::Fail, UnavailablePolicy::Refuse) => Action::Deny,
        (FailurePolicy::Ignore, _) | (FailurePolicy::Fail, UnavailablePolicy::Admit) => Action::Report,
    }
}

/// One of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Policy(Subject),
    Binding(Subject),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(subject) => write!(f, "ValidatingAdmissionPolicy {}", subject.name()),
            Self::Binding(subject) => write!(f, "ValidatingAdmissionPolicyBinding {}", subject.name()),
        }
    }
}

/// Which object it is, and which version of its spec: the status of a policy changes neither, and a binding has none, but
/// no generation either.
type Version = (Option<String>, Option<String>);

fn version(part: Part, meta: &ObjectMeta) -> Version {
    let of_spec = match part {
        Part::Policy(_) => meta.generation.map(|generation| generation.to_string()),
        Part::Binding(_) => meta.resource_version.clone(),
    };
    (meta.uid.clone(), of_spec)
}

/// Keeps the policies and bindings.
pub struct Enforcer {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    exemptions: Exemptions,
    action: Action,
    observed: watch::Receiver<Option<Observed>>,
    /// As they came of our writes; absent where there is to be none.
    written: BTreeMap<Part, Version>,
    left_out: Vec<LeftOut>,
}

impl Enforcer {
    /// `observed` is none until everything was listed.
    pub fn new(
        client: Client,
        exemptions: Exemptions,
        action: Action,
        observed: watch::Receiver<Option<Observed>>,
    ) -> Self {
        Self {
            policies: Api::all(client.clone()),
            bindings: Api::all(client),
            exemptions,
            action,
            observed,
            written: BTreeMap::new(),
            left_out: Vec::new(),
        }
    }

    /// From when this process `leads`, until `stop` is cancelled.
    pub async fn run(mut self, leads: impl Future<Output = ()>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = leads => {}
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let mut changes = self.changes();
        let mut failures = 0;
        loop {
            let observed = self.observed.borrow_and_update().clone();
            if let Some(observed) = observed {
                let plan = plan(&observed, &self.exemptions, self.action);
                self.say(&plan);
                if let Err((part, error)) = self.write(&plan).await {
                    let (fault, error) = explain(&error);
                    tracing::warn!(object = %part, %fault, error, "cannot keep what API servers enforce");
                    failures += 1;
                    tokio::time::sleep(jitter(RETRY.delay(failures), fastrand::u32(..))).await;
                    continue;
                }
                failures = 0;
                tokio::time::sleep(PAUSE).await;
            }
            self.next(&mut changes).await;
        }
    }

    /// Ends when there may be something to write.
    async fn next(&mut self, changes: &mut Changes) {
        loop {
            tokio::select! {
                changed = self.observed.changed() => match changed {
                    Ok(()) => return,
                    // The watches have ended, and the process with them.
                    Err(_) => std::future::pending().await,
                },
                Some((part, seen)) = changes.next() => match seen {
                    Ok(seen) if seen.as_ref() == self.written.get(&part) => {}
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, %part, "is not watched for now"),
                },
            }
        }
    }

    fn changes(&self) -> Changes {
        let streams = Subject::ALL.into_iter().flat_map(|subject| {
            let (policies, bindings) = (self.policies.clone(), self.bindings.clone());
            [
                changes_of(policies, Part::Policy(subject), subject.name()),
                changes_of(bindings, Part::Binding(subject), subject.name()),
            ]
        });
        streams.collect()
    }

    fn say(&mut self, plan: &Plan) {
        if self.left_out != plan.left_out {
            for left_out in &plan.left_out {
                tracing::warn!(reason = left_out.reason.as_str(), "{left_out}");
            }
            self.left_out.clone_from(&plan.left_out);
        }
    }

    async fn write(&mut self, plan: &Plan) -> Result<(), (Part, Error)> {
        for subject in Subject::ALL {
            match plan.of(subject) {
                Some(enforced) => self.put(enforced).await?,
                None => self.delete(subject).await?,
            }
        }
        Ok(())
    }

    /// What is bound is there before its binding.
    async fn put(&mut self, enforced: &Enforced) -> Result<(), (Part, Error)> {
        let part = Part::Policy(enforced.subject);
        let stored = put(&self.policies, &enforced.policy, part).await?;
        self.note(part, version(part, &stored.metadata));
        let part = Part::Binding(enforced.subject);
        let stored = put(&self.bindings, &enforced.binding, part).await?;
        self.note(part, version(part, &stored.metadata));
        Ok(())
    }

    fn note(&mut self, part: Part, version: Version) {
        if self.written.get(&part) != Some(&version) {
            tracing::info!(object = %part, action = self.action.as_str(), "enforced");
        }
        self.written.insert(part, version);
    }

    async fn delete(&mut self, subject: Subject) -> Result<(), (Part, Error)> {
        let part = Part::Binding(subject);
        delete(&self.bindings, part, subject.name()).await?;
        self.written.remove(&part);
        let part = Part::Policy(subject);
        delete(&self.policies, part, subject.name()).await?;
        self.written.remove(&part);
        Ok(())
    }
}

type Changes = SelectAll<BoxStream<'static, (Part, Result<Option<Version>, watcher::Error>)>>;

fn changes_of<K>(
    api: Api<K>,
    part: Part,
    name: &'static str,
) -> BoxStream<'static, (Part, Result<Option<Version>, watcher::Error>)>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    let seen = watcher::watch_object(api, name).default_backoff();
    let versions = seen.map(move |seen| {
        (
            part,
            seen.map(|found| found.map(|found| version(part, found.meta()))),
        )
    });
    versions.boxed()
}

/// Replaces what is there. Server-side apply would leave what others add to its lists, as an action or a condition, and is only
/// how it is made: the rights to that can be tied to a name.
async fn put<K>(api: &Api<K>, object: &K, part: Part) -> Result<K, (Part, Error)>
where
    K: Resource + Clone + DeserializeOwned + Serialize + fmt::Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let put = async {
        let Some(found) = api.get_opt(&name).await? else {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            return api.patch(&name, &params, &Patch::Apply(object)).await;
        };
        let mut object = object.clone();
        object
            .meta_mut()
            .resource_version
            .clone_from(&found.meta().resource_version);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        api.replace(&name, &params, &object).await
    };
    put.await.map_err(|error| (part, error))
}

async fn delete<K>(api: &Api<K>, part: Part, name: &str) -> Result<(), (Part, Error)>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {
            tracing::info!(object = %part, "no longer enforced");
            Ok(())
        }
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err((part, error)),
    }
}

/// What the policies are called, and their bindings.
pub fn names() -> impl Iterator<Item = &'static str> {
    Subject::ALL.into_iter().map(Subject::name)
}

/// Takes the policies and bindings away; for the end of Berth on a cluster.
///
/// # Errors
/// The API server does not do it. That there are none is no error.
pub async fn remove(client: Client) -> Result<(), Error> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client);
    for subject in Subject::ALL {
        let name = subject.name();
        let removed = [
            delete(&bindings, Part::Binding(subject), name).boxed(),
            delete(&policies, Part::Policy(subject), name).boxed(),
        ];
        for removed in removed {
            removed.await.map_err(|(_, error)| error)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breach_is_refused_only_where_the_webhook_refuses_what_nobody_answers_for() {
        use FailurePolicy::{Fail, Ignore};
        use UnavailablePolicy::{Admit, Refuse};
        for (failure, unavailable, expected) in [
            (Ignore, Admit, Action::Report),
            (Ignore, Refuse, Action::Report),
            (Fail, Admit, Action::Report),
            (Fail, Refuse, Action::Deny),
        ] {
            assert_eq!(action(failure, unavailable), expected, "{failure} {unavailable}");
        }
    }
}
