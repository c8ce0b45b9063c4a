// SPDX-License-Identifier: Apache-2.0
//! The test control plane itself: real, dual-stack, restartable, with RBAC on.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its mk_ functions too"
)]

use std::path::PathBuf;

use berth_e2e::controlplane::{ControlPlane, ControlPlaneConfig};
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

fn mk_service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]},
    }))
    .unwrap()
}

fn cluster_ips(service: &Service) -> Vec<String> {
    service.spec.clone().unwrap().cluster_ips.unwrap()
}

#[tokio::test]
async fn services_are_dual_stack_and_outlive_restarts_of_the_api_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start(ControlPlaneConfig::loopback(dir.path()))
        .await
        .unwrap();
    let services: Api<Service> = Api::namespaced(control_plane.client(), "default");
    let created = services
        .create(&PostParams::default(), &mk_service("web"))
        .await
        .unwrap();
    let addresses = cluster_ips(&created);
    assert!(
        addresses[0].starts_with("10.96.") && addresses[1].starts_with("fd00:10:96::"),
        "{addresses:?}"
    );

    let first = control_plane.apiserver_pid();
    control_plane.restart_apiserver().await.unwrap();
    assert_ne!(control_plane.apiserver_pid(), first);
    assert_eq!(cluster_ips(&services.get("web").await.unwrap()), addresses);

    control_plane.kill_apiserver();
    services.get("web").await.unwrap_err();
    control_plane.start_apiserver().await.unwrap();
    assert_eq!(cluster_ips(&services.get("web").await.unwrap()), addresses);
    let second = services
        .create(&PostParams::default(), &mk_service("second"))
        .await
        .unwrap();
    assert_ne!(cluster_ips(&second), addresses);

    let processes = [control_plane.apiserver_pid().unwrap(), control_plane.etcd_pid()];
    drop(control_plane);
    for id in processes {
        assert!(
            !PathBuf::from(format!("/proc/{id}")).exists(),
            "process {id} is left"
        );
    }
}

#[tokio::test]
async fn service_accounts_may_do_what_their_roles_say_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start(ControlPlaneConfig::loopback(dir.path()))
        .await
        .unwrap();
    control_plane
        .kubectl(&["create", "serviceaccount", "reader", "-n", "kube-system"])
        .await
        .unwrap();
    let role = [
        "create",
        "clusterrole",
        "reader",
        "--verb=list",
        "--resource=serviceaccounts",
    ];
    control_plane.kubectl(&role).await.unwrap();
    let binding = [
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=reader",
        "--serviceaccount=kube-system:reader",
    ];
    control_plane.kubectl(&binding).await.unwrap();
    control_plane.settle_rbac().await.unwrap();
    let kubeconfig = control_plane
        .service_account_kubeconfig("kube-system", "reader")
        .await
        .unwrap();
    let reader = control_plane.client_for(&kubeconfig).await.unwrap();

    let accounts: Api<ServiceAccount> = Api::namespaced(reader.clone(), "kube-system");
    assert_eq!(
        accounts.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let secrets: Api<Secret> = Api::namespaced(reader, "kube-system");
    let refused = secrets.list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.is_forbidden()),
        "{refused}"
    );

    let absent = control_plane
        .service_account_kubeconfig("kube-system", "nobody")
        .await
        .unwrap_err();
    assert!(
        absent.to_string().contains("ServiceAccount kube-system/nobody"),
        "{absent}"
    );
}

#[tokio::test]
async fn kubectl_applies_files_and_shows_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start(ControlPlaneConfig::loopback(dir.path()))
        .await
        .unwrap();
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let text = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]},
    });
    std::fs::write(manifests.join("web.yaml"), text.to_string()).unwrap();
    std::fs::write(
        manifests.join("kustomization.yaml"),
        json!({"resources": ["web.yaml"], "namePrefix": "kustomized-"}).to_string(),
    )
    .unwrap();

    assert!(
        control_plane
            .apply(&manifests.join("web.yaml"))
            .await
            .unwrap()
            .contains("service/web created")
    );
    let applied = control_plane.apply_kustomize(&manifests).await.unwrap();
    assert!(applied.contains("service/kustomized-web created"), "{applied}");
    let piped = control_plane
        .kubectl_runner()
        .run_with_input(["apply", "-f", "-"], &text.to_string())
        .await
        .unwrap();
    assert!(piped.contains("service/web unchanged"), "{piped}");

    let refused = control_plane
        .kubectl(&["get", "service", "nothing"])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("kubectl get service nothing") && refused.contains("NotFound"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_api_server_that_ends_at_once_is_reported_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ControlPlaneConfig::loopback(dir.path().join("state"));
    config.logs = Some(dir.path().join("logs"));
    config.apiserver_flags = vec!["--no-such-flag".to_owned()];
    let text = ControlPlane::start(config).await.err().unwrap().to_string();
    assert!(
        text.contains("unknown flag: --no-such-flag") && text.contains("logs/kube-apiserver.log"),
        "{text}"
    );
}
