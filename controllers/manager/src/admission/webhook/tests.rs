// SPDX-License-Identifier: Apache-2.0

mod again;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Mutex;

use berth_controllers_core::admission::{Chosen, ClusterFamilies};
use berth_model::IpFamily;
use berth_runtime::metrics::Metrics;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Answers what it is told, and remembers what it was asked.
struct Told {
    cluster: Option<ClusterFamilies>,
    choice: Option<Choice>,
    asked: Mutex<Vec<String>>,
}

impl Chooser for Told {
    fn cluster(&self) -> Option<ClusterFamilies> {
        self.cluster
    }

    async fn choose(&self, ask: Ask<'_>) -> Choice {
        let text = format!(
            "{:?} {}/{} dry={} old={} ports={} {}",
            ask.operation,
            ask.namespace,
            ask.name.unwrap_or("?"),
            ask.dry_run,
            ask.old_uid.unwrap_or("-"),
            ask.ports.join(","),
            ask.needs
        );
        self.asked.lock().unwrap().push(text);
        match self.choice.clone() {
            Some(choice) => choice,
            None => pending().await,
        }
    }
}

const V4: ClusterFamilies = ClusterFamilies {
    primary: IpFamily::V4,
    dual_stack: false,
};

struct Bench {
    webhook: Webhook<Told>,
    told: Arc<Told>,
    metrics: Metrics,
}

fn bench(cluster: Option<ClusterFamilies>, choice: Option<Choice>, unavailable: UnavailablePolicy) -> Bench {
    let told = Arc::new(Told {
        cluster,
        choice,
        asked: Mutex::default(),
    });
    let settings = Settings {
        exemptions: Exemptions::with(["berth-system".to_owned()]),
        unavailable,
        timeout: Duration::from_secs(5),
    };
    let metrics = Metrics::new("test", "0");
    let counted = metrics.register(AdmissionMetrics::register);
    Bench {
        webhook: Webhook::new(told.clone(), settings, counted),
        told,
        metrics,
    }
}

impl Bench {
    async fn response(&self, review: &Value) -> Value {
        let now = Instant::now();
        let deadline = self.webhook.deadline(now, Some("2s"));
        let body = review.to_string();
        let answer = self.webhook.answer(body.as_bytes(), now, deadline).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].clone()
    }

    async fn malformed(&self, body: &str) -> String {
        let now = Instant::now();
        let answer = self.webhook.answer(body.as_bytes(), now, now).await;
        answer.unwrap_err().to_string()
    }

    fn asked(&self) -> Vec<String> {
        self.told.asked.lock().unwrap().clone()
    }

    fn counts(&self, outcome: &str) -> bool {
        let line = format!("berth_admission_requests_total{{outcome=\"{outcome}\"}} 1");
        self.metrics.render().contains(&line)
    }
}

fn review(namespace: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Service"},
            "resource": {"group": "", "version": "v1", "resource": "services"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {},
            "object": object,
            "oldObject": null,
            "dryRun": false,
        },
    })
}

fn service(metadata: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        "status": {"loadBalancer": {}},
    })
}

fn chosen() -> Choice {
    Choice::Chosen(Chosen {
        cluster_ips: BTreeMap::from([(IpFamily::V4, "10.96.7.7".parse().unwrap())]),
        ..Chosen::default()
    })
}

fn decoded(patch: &Value) -> Value {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(patch.clone()).unwrap();
    serde_json::from_slice(&bytes.0).unwrap()
}

#[tokio::test]
async fn a_create_is_asked_for_and_gets_the_chosen_values_as_a_patch() {
    let bench = bench(Some(V4), Some(chosen()), UnavailablePolicy::Admit);
    let response = bench
        .response(&review("team", &service(&json!({"name": "web"}))))
        .await;
    assert_eq!(
        (&response["allowed"], &response["patchType"]),
        (&json!(true), &json!("JSONPatch"))
    );
    let expected = json!([
        {"op": "add", "path": "/spec/clusterIP", "value": "10.96.7.7"},
        {"op": "add", "path": "/spec/clusterIPs", "value": ["10.96.7.7"]},
    ]);
    assert_eq!(decoded(&response["patch"]), expected);
    let asked = bench.asked();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].starts_with("Create team/web dry=false old=- ports=http"),
        "{asked:?}"
    );
    assert!(bench.counts("patched"), "{}", bench.metrics.render());
}

#[tokio::test]
async fn a_generated_name_a_dry_run_and_the_old_uid_are_told() {
    let bench = bench(Some(V4), Some(chosen()), UnavailablePolicy::Admit);
    let mut generated = review("team", &service(&json!({"generateName": "web-"})));
    generated["request"]["dryRun"] = json!(true);
    bench.response(&generated).await;
    let mut update = review("team", &service(&json!({"name": "web", "uid": "s-9"})));
    update["request"]["operation"] = json!("UPDATE");
    let mut old = service(&json!({"name": "web", "uid": "s-9"}));
    old["spec"] = json!({"type": "ExternalName", "externalName": "a.example"});
    update["request"]["oldObject"] = old;
    bench.response(&update).await;
    let asked = bench.asked();
    assert!(asked[0].starts_with("Create team/? dry=true old=-"), "{asked:?}");
    assert!(
        asked[1].starts_with("Update team/web dry=false old=s-9"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn nobody_is_asked_about_what_is_exempt_foreign_complete_or_invalid() {
    let bench = bench(Some(V4), Some(chosen()), UnavailablePolicy::Refuse);
    let web = service(&json!({"name": "web"}));
    let mut status = review("team", &web);
    status["request"]["subResource"] = json!("status");
    let mut delete = review("team", &web);
    delete["request"]["operation"] = json!("DELETE");
    delete["request"]["object"] = Value::Null;
    let mut headless = web.clone();
    headless["spec"]["clusterIP"] = json!("None");
    let mut invalid = web.clone();
    invalid["spec"]["clusterIP"] = json!("10.96");
    let apiserver = service(&json!({"name": "kubernetes"}));
    for (review, outcome) in [
        (review("kube-system", &web), "exempt"),
        (review("default", &apiserver), ""),
        (status, "foreign"),
        (delete, ""),
        (review("team", &headless), "nothing"),
        (review("team", &invalid), "left_to_server"),
    ] {
        let response = bench.response(&review).await;
        assert_eq!(response, json!({"allowed": true, "uid": "u-1"}));
        assert!(outcome.is_empty() || bench.counts(outcome), "{outcome}");
        // The second of each is not looked for.
    }
    assert_eq!(bench.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_has_code_reason_message_and_field_for_clients() {
    let refusal = |kind| Refusal {
        reason: "PoolExhausted",
        kind,
        message: "pool tenants has no address left; widen spec.ranges".to_owned(),
        field: Some("spec.clusterIP".to_owned()),
    };
    for (kind, code, retry) in [
        (RefusalKind::Forbidden, 403, Value::Null),
        (RefusalKind::Conflict, 409, Value::Null),
        (RefusalKind::Invalid, 422, Value::Null),
        (RefusalKind::Exhausted(Duration::from_millis(10)), 429, json!(1)),
        (RefusalKind::Exhausted(Duration::from_secs(70)), 429, json!(70)),
    ] {
        let choice = Choice::Refused(refusal(kind));
        let bench = bench(Some(V4), Some(choice), UnavailablePolicy::Admit);
        let response = bench
            .response(&review("team", &service(&json!({"name": "web"}))))
            .await;
        assert_eq!(response["allowed"], false);
        let status = &response["status"];
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"], "PoolExhausted");
        assert_eq!(
            status["message"],
            "pool tenants has no address left; widen spec.ranges"
        );
        assert_eq!(status["details"]["name"], "web");
        assert_eq!(status["details"]["causes"][0]["field"], "spec.clusterIP");
        assert_eq!(status["details"]["retryAfterSeconds"], retry);
        assert!(bench.counts("refused"));
    }
}

#[tokio::test(start_paused = true)]
async fn when_nobody_can_say_the_policy_does_and_a_deadline_is_kept() {
    let web = review("team", &service(&json!({"name": "web"})));
    let why = Unavailable {
        reason: "NoHolder",
        message: "no replica hands out values".to_owned(),
    };
    for (cluster, choice, reason) in [
        (Some(V4), Some(Choice::Unavailable(why)), "NoHolder"),
        (Some(V4), None, "DeadlineExceeded"),
        (None, Some(chosen()), "ServiceRangesUnknown"),
    ] {
        let admitting = bench(cluster, choice.clone(), UnavailablePolicy::Admit);
        let response = admitting.response(&web).await;
        assert_eq!(
            (&response["allowed"], &response["patch"]),
            (&json!(true), &Value::Null)
        );
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(
            warning.contains(reason) && warning.chars().count() <= 120,
            "{warning}"
        );
        assert!(admitting.counts("admitted_unserved"));

        let refusing = bench(cluster, choice, UnavailablePolicy::Refuse);
        let response = refusing.response(&web).await;
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["code"], 503);
        assert_eq!(response["status"]["details"]["retryAfterSeconds"], 1);
        assert!(response["status"]["message"].as_str().unwrap().contains(reason));
        // What is exempt is let through even then.
        let system = review("kube-system", &service(&json!({"name": "dns"})));
        assert_eq!(refusing.response(&system).await["allowed"], true);
        assert_eq!(refusing.webhook.is_ready(), cluster.is_some());
    }
}

#[test]
fn the_api_servers_own_patience_is_kept_to_less_a_margin() {
    let bench = bench(None, None, UnavailablePolicy::Admit);
    let now = Instant::now();
    let left = |timeout| {
        bench
            .webhook
            .deadline(now, timeout)
            .saturating_duration_since(now)
    };
    assert_eq!(left(Some("10s")), Duration::from_secs(9));
    assert_eq!(left(Some("500ms")), Duration::from_millis(400));
    assert_eq!(left(Some("50ms")), Duration::ZERO);
    assert_eq!(left(None), Duration::from_millis(4_500));
    assert_eq!(left(Some("soon")), Duration::from_millis(4_500));
}

#[tokio::test]
async fn what_is_no_review_is_told_apart() {
    let bench = bench(Some(V4), Some(chosen()), UnavailablePolicy::Admit);
    let web = service(&json!({"name": "web"}));
    let mut no_old = review("team", &web);
    no_old["request"]["operation"] = json!("UPDATE");
    let mut no_object = review("team", &web);
    no_object["request"]["object"] = Value::Null;
    let mut broken = review("team", &web);
    broken["request"]["object"]["spec"]["ports"] = json!("http");
    let no_request = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
    let other = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"});
    for (body, part) in [
        (no_old.to_string(), "no oldObject"),
        (no_object.to_string(), "no object"),
        (broken.to_string(), "no AdmissionReview of a Service"),
        (no_request.to_string(), "no request"),
        (other.to_string(), "v1beta1"),
        (String::new(), "no AdmissionReview"),
    ] {
        let message = bench.malformed(&body).await;
        assert!(message.contains(part), "{message}");
    }
}

proptest! {
    #[test]
    fn a_review_with_anything_in_it_is_answered_or_told_malformed(
        cut in 0_usize..700,
        place in 0_usize..700,
        byte in any::<u8>(),
    ) {
        let bench = bench(Some(V4), Some(chosen()), UnavailablePolicy::Admit);
        let mut body = review("team", &service(&json!({"name": "web"}))).to_string().into_bytes();
        if let Some(slot) = body.get_mut(place) {
            *slot = byte;
        }
        if cut % 3 == 0 {
            body.truncate(cut);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let now = std::time::Instant::now().into();
        let answered = runtime.block_on(bench.webhook.answer(&body, now, now + Duration::from_secs(60)));
        if let Ok(answer) = answered {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            prop_assert!(answer["response"]["allowed"].is_boolean());
        }
    }
}
