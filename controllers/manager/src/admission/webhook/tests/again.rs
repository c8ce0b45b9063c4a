// SPDX-License-Identifier: Apache-2.0
//! A write that is reviewed once more, because another webhook has changed the Service.

use std::collections::BTreeSet;

use berth_controllers_core::pools::Item;
use berth_model::Port;

use super::*;

/// Has chosen these for whatever is called web, and chooses others now.
struct Remembering {
    chosen: BTreeSet<Item>,
    had: Mutex<BTreeSet<Item>>,
}

impl Chooser for Remembering {
    fn cluster(&self) -> Option<ClusterFamilies> {
        Some(V4)
    }

    async fn chosen_before(&self, _: &str, name: Option<&str>, among: BTreeSet<Item>) -> BTreeSet<Item> {
        assert_eq!(name, Some("web"));
        among.intersection(&self.chosen).copied().collect()
    }

    async fn choose(&self, ask: Ask<'_>) -> Choice {
        self.had.lock().unwrap().clone_from(ask.had);
        chosen()
    }
}

fn webhook(chosen: &[Item]) -> (Webhook<Remembering>, Arc<Remembering>) {
    let remembering = Arc::new(Remembering {
        chosen: chosen.iter().copied().collect(),
        had: Mutex::default(),
    });
    let settings = Settings {
        exemptions: Exemptions::with([]),
        unavailable: UnavailablePolicy::Refuse,
        timeout: Duration::from_secs(5),
    };
    let metrics = Metrics::new("test", "0").register(AdmissionMetrics::register);
    (Webhook::new(remembering.clone(), settings, metrics), remembering)
}

/// What the client sent was a name and a port, and everything else came after it.
fn changed(spec: Value) -> Value {
    let mut service = service(
        &json!({"name": "web", "managedFields": [{"manager": "kubectl", "operation": "Update",
        "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:type": {},
            "f:ports": {r#"k:{"port":80,"protocol":"TCP"}"#: {".": {}, "f:name": {}, "f:port": {}}}}}}]}),
    );
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    review("team", &service)
}

async fn patch_of(webhook: &Webhook<Remembering>, review: &Value) -> Value {
    let now = Instant::now();
    let answer = webhook
        .answer(review.to_string().as_bytes(), now, now + Duration::from_secs(1))
        .await
        .unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    let patch = &answer["response"]["patch"];
    if patch.is_null() {
        json!([])
    } else {
        decoded(patch)
    }
}

#[tokio::test]
async fn what_was_chosen_for_another_type_is_taken_out_and_asked_for_anew() {
    let address = Item::Address("10.96.7.7".parse().unwrap());
    let port = Item::Port(Port::new(30_007).unwrap());
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_007}]);
    let (webhook_of_both, remembering) = webhook(&[address, port]);
    let spec =
        json!({"type": "ClusterIP", "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"], "ports": ports});
    let expected = json!([{"op": "remove", "path": "/spec/ports/0/nodePort"}]);
    assert_eq!(patch_of(&webhook_of_both, &changed(spec.clone())).await, expected);
    assert_eq!(
        *remembering.had.lock().unwrap(),
        BTreeSet::from([address, port]),
        "to be given again where it fits"
    );
    // Nothing is asked for, and something to be taken out all the same.
    let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["10.96.7.7"]});
    let expected = json!([{"op": "remove", "path": "/spec/clusterIPs"}]);
    assert_eq!(patch_of(&webhook_of_both, &changed(headless)).await, expected);
    // Somebody else has set it.
    let (webhook_of_none, _) = webhook(&[]);
    assert_eq!(patch_of(&webhook_of_none, &changed(spec)).await, json!([]));
}
