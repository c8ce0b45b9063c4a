// SPDX-License-Identifier: Apache-2.0
//! The interposer itself, before the real API server.

use std::time::Duration;

use anyhow::{Context, Result};
use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use berth_e2e::interposer::{Interposer, Reach, Told, Verb, WriteFaults};
use berth_testkit::wait::eventually;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

struct Ground {
    interposer: Interposer,
    /// Leads through the interposer.
    through: Client,
    /// Leads to the API server.
    straight: Client,
    _control_plane: ControlPlane,
    _folder: TempDir,
}

impl Ground {
    async fn prepare() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let control_plane = ControlPlane::start(ControlPlaneConfig::loopback(folder.path())).await?;
        let interposer = Interposer::before(&control_plane).await?;
        let kubeconfig = interposer.kubeconfig(&control_plane.admin_kubeconfig())?;
        Ok(Self {
            through: control_plane.client_for(&kubeconfig).await?,
            straight: control_plane.client(),
            interposer,
            _control_plane: control_plane,
            _folder: folder,
        })
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::default_namespaced(self.through.clone())
    }

    async fn names(&self) -> Result<Vec<String>> {
        let maps: Api<ConfigMap> = Api::default_namespaced(self.straight.clone());
        let listed = maps.list(&ListParams::default()).await?;
        Ok(listed.into_iter().filter_map(|map| map.metadata.name).collect())
    }
}

fn mk_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

fn code(outcome: kube::Result<ConfigMap>) -> Option<u16> {
    match outcome {
        Ok(_) => Some(201),
        Err(kube::Error::Api(status)) => Some(status.code),
        Err(_) => None,
    }
}

#[tokio::test]
async fn writes_fail_as_ordered_before_or_after_they_are_carried_out() {
    let ground = Ground::prepare().await.unwrap();
    let create = async |name: &str| code(ground.maps().create(&PostParams::default(), &mk_map(name)).await);
    assert_eq!(create("plain").await, Some(201));
    let mut expected = vec!["plain".to_owned()];
    for (index, (told, carried_out, seen)) in [
        (Told::Conflict, false, Some(409)),
        (Told::Conflict, true, Some(409)),
        (Told::TooManyRequests(Some(1)), false, Some(429)),
        (Told::ServerError, false, Some(500)),
        (Told::ServerError, true, Some(500)),
        (Told::Nothing, false, None),
        (Told::Nothing, true, None),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("failed-{index}");
        ground
            .interposer
            .fail_writes(WriteFaults::always(told, carried_out));
        assert_eq!(create(&name).await, seen, "{told:?}");
        assert_eq!(ground.interposer.fail_none(), 1);
        expected.extend(carried_out.then_some(name));
    }
    assert_eq!(create("plain-again").await, Some(201));
    expected.push("plain-again".to_owned());
    expected.sort();
    let mut names = ground.names().await.unwrap();
    names.sort();
    assert_eq!(names, expected);

    let ledger = ground.interposer.ledger();
    assert_eq!(ledger.count(Verb::Create, "configmaps"), 9);
    let writes = ledger.writes();
    assert_eq!(
        writes.iter().filter(|write| write.answered == Some(201)).count(),
        5
    );
    assert_eq!(writes.iter().filter(|write| write.told == Some(201)).count(), 2);
    assert_eq!(writes.iter().filter(|write| write.failed_on_purpose).count(), 7);
}

#[tokio::test]
async fn watches_are_cut_and_held_back_as_ordered() {
    let ground = Ground::prepare().await.unwrap();
    let create = async |name: &str| {
        let maps: Api<ConfigMap> = Api::default_namespaced(ground.straight.clone());
        let created = maps.create(&PostParams::default(), &mk_map(name)).await;
        created.map(|map| map.metadata.resource_version.unwrap_or_default())
    };
    let begin = create("first").await.unwrap();
    let mut maps = names_of(&ground.maps(), &begin).await.unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(ground.through.clone());
    let mut secrets = names_of(&secrets, &begin).await.unwrap();

    ground.interposer.hold_watches("configmaps");
    for name in ["held-1", "held-2"] {
        create(name).await.unwrap();
    }
    let straight: Api<Secret> = Api::default_namespaced(ground.straight.clone());
    let secret = serde_json::from_value(json!({"metadata": {"name": "not-held"}})).unwrap();
    straight.create(&PostParams::default(), &secret).await.unwrap();
    // Later than the others, and yet the only one that arrives.
    assert_eq!(secrets.try_next().await.unwrap().as_deref(), Some("not-held"));
    assert!(futures::poll!(maps.next()).is_pending());
    ground.interposer.let_go();
    assert_eq!(maps.try_next().await.unwrap().as_deref(), Some("held-1"));
    assert_eq!(maps.try_next().await.unwrap().as_deref(), Some("held-2"));

    ground.interposer.cut_watches();
    // kube's stream just ends when its connection does.
    assert!(maps.next().await.is_none_or(|event| event.is_err()));
    assert!(secrets.next().await.is_none_or(|event| event.is_err()));
    let mut again = names_of(&ground.maps(), &begin).await.unwrap();
    assert_eq!(again.try_next().await.unwrap().as_deref(), Some("held-1"));
    assert_eq!(ground.interposer.ledger().count(Verb::Watch, "configmaps"), 2);
}

#[tokio::test]
async fn out_of_reach_nothing_is_answered_and_nothing_passed_on_later() {
    let ground = Ground::prepare().await.unwrap();
    let maps = ground.maps();
    maps.list(&ListParams::default()).await.unwrap();
    ground.interposer.reach(Reach::Refused);
    assert_eq!(
        code(maps.create(&PostParams::default(), &mk_map("refused")).await),
        None
    );
    ground.interposer.reach(Reach::Silent);
    let hanging = tokio::spawn({
        let maps = maps.clone();
        async move { maps.create(&PostParams::default(), &mk_map("hanging")).await }
    });
    // Once it is among the connections the interposer has taken: the others are served or closed.
    tokio::task::yield_now().await;
    assert!(!hanging.is_finished());
    ground.interposer.reach(Reach::Open);
    eventually("an answer again", PATIENCE, || async {
        maps.list(&ListParams::default()).await.map(drop)
    })
    .await
    .unwrap();
    let told = code(hanging.await.unwrap());
    let names = ground.names().await.unwrap();
    assert!(!names.contains(&"refused".to_owned()));
    assert_eq!(
        names.contains(&"hanging".to_owned()),
        told.is_some(),
        "carried out only if it came through after the silence"
    );
}

/// The names that a watch shows from a version on.
async fn names_of<K>(api: &Api<K>, from: &str) -> Result<impl Stream<Item = Result<String>> + Unpin + use<K>>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + 'static,
{
    let events = api.watch(&WatchParams::default(), from).await?;
    Ok(events
        .map(|event| {
            let event = event.context("the watch broke")?;
            let WatchEvent::Added(object) = event else {
                anyhow::bail!("not added: {event:?}");
            };
            object.meta().name.clone().context("a name")
        })
        .boxed())
}
