// SPDX-License-Identifier: Apache-2.0
//! What is asked, and what follows from the answers of API servers that are known and of one that is made up.

use proptest::prelude::*;

use super::*;

fn range(text: &str) -> PortRange {
    text.parse().unwrap()
}

fn node_ports(service: &Service) -> Vec<i32> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.unwrap().iter().filter_map(|port| port.node_port).collect()
}

#[test]
fn only_ports_outside_the_believed_range_are_asked_for() {
    for (believed, expected) in [
        ("30000-32767", vec![1, 29_999, 32_768, 65_535]),
        ("1-32767", vec![32_768, 65_535]),
        ("2-32767", vec![1, 32_768, 65_535]),
        ("30000-65535", vec![1, 29_999]),
        ("30000-65534", vec![1, 29_999, 65_535]),
        ("1-1", vec![2, 65_535]),
        ("65535-65535", vec![1, 65_534]),
    ] {
        let service = question("berth-system", range(believed)).unwrap();
        assert_eq!(node_ports(&service), expected, "{believed}");
        assert!(is_ours(&service));
        assert_eq!(service.metadata.namespace.as_deref(), Some("berth-system"));
    }
    assert!(question("berth-system", range("1-65535")).is_none());
}

#[test]
fn a_service_of_somebody_else_that_is_called_so_is_not_berths() {
    let mut service = question("berth-system", range("30000-32767")).unwrap();
    service.metadata.labels = None;
    assert!(!is_ours(&service));
    let mut service = question("berth-system", range("30000-32767")).unwrap();
    service.metadata.name = Some("web".to_owned());
    assert!(!is_ours(&service));
}

#[test]
fn the_text_of_a_refusal_tells_the_true_range_or_is_said_as_it_is() {
    let refusal = |range: &str| {
        format!(
            "Service \"berth-node-port-range\" is invalid: spec.ports[0].nodePort: Invalid value: 1: provided port is not in the \
             valid range. The range of valid ports is {range}"
        )
    };
    let believed = range("30000-32767");
    for (text, expected) in [
        (refusal("30000-32767"), Verdict::Same),
        (refusal("30000-32767") + ".", Verdict::Same),
        (refusal("30000-32767, and more"), Verdict::Same),
        (refusal("20000-22767"), Verdict::Other(range("20000-22767"))),
        (refusal("30000-30000"), Verdict::Other(range("30000-30000"))),
        (refusal("1-65535"), Verdict::Other(range("1-65535"))),
        (
            "Service \"x\" is invalid: spec.ports[1].nodePort: Invalid value: 29999: provided port is already allocated".to_owned(),
            Verdict::Wider,
        ),
    ] {
        assert_eq!(Verdict::of(believed, Answer::Refused(&text)), expected, "{text}");
    }
    for nonsense in [
        String::new(),
        refusal(""),
        refusal("-"),
        refusal("30000"),
        refusal("32767-30000"),
        refusal("0-10"),
        refusal("30000-99999999999999999999"),
        refusal("30000-32767-1"),
        refusal("\u{ff13}0000-32767"),
        "services \"berth-node-port-range\" is forbidden: exceeded quota: none".to_owned(),
    ] {
        let verdict = Verdict::of(believed, Answer::Refused(&nonsense));
        assert_eq!(verdict, Verdict::Unknown(nonsense.clone()), "{nonsense}");
        assert!(!verdict.is_mismatch());
    }
    assert_eq!(Verdict::of(believed, Answer::Created), Verdict::Wider);
}

#[test]
fn a_mismatch_is_said_with_the_flag_both_ranges_and_the_way_out() {
    let believed = range("30000-32767");
    let told = |verdict: &Verdict| verdict.told(believed).to_string();
    assert_eq!(
        told(&Verdict::Other(range("20000-22767"))),
        "--service-node-port-range=30000-32767 of berth controllers is not the API server's range, which is 20000-22767. Ports \
         that only one of the two has are given to nobody, or given and then refused: start the controllers with \
         --service-node-port-range=20000-22767, or the API server with 30000-32767"
    );
    for verdict in [
        Verdict::Wider,
        Verdict::Unasked,
        Verdict::Unknown("no".to_owned()),
    ] {
        let text = told(&verdict);
        assert!(text.contains("--service-node-port-range=30000-32767"), "{text}");
    }
}

/// What an API server with this range says, where nobody has any port: the first that it lacks is refused.
fn server(own: PortRange, service: &Service) -> Result<(), String> {
    for port in node_ports(service) {
        let port = Port::new(u16::try_from(port).unwrap()).unwrap();
        if !own.contains(port) {
            let (first, last) = (own.first(), own.last());
            return Err(format!("no: The range of valid ports is {first}-{last}"));
        }
    }
    Ok(())
}

fn ranges() -> impl Strategy<Value = PortRange> {
    let ends = prop_oneof![1..4_u16, 29_998..30_003_u16, 65_532..=65_535_u16];
    (ends.clone(), ends).prop_map(|(a, b)| {
        let (first, last) = (a.min(b), a.max(b));
        PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap()
    })
}

proptest! {
    #[test]
    fn of_an_api_server_that_answers_the_verdict_is_right(believed in ranges(), own in ranges()) {
        let Some(service) = question("x", believed) else {
            return Ok(());
        };
        let answer = server(own, &service);
        let answer = match &answer {
            Ok(()) => Answer::Created,
            Err(text) => Answer::Refused(text),
        };
        let verdict = Verdict::of(believed, answer);
        prop_assert_eq!(verdict.is_mismatch(), believed != own);
        match verdict {
            Verdict::Other(range) => prop_assert_eq!(range, own),
            Verdict::Same | Verdict::Wider => {}
            Verdict::Unknown(text) => prop_assert!(false, "{}", text),
            Verdict::Unasked => prop_assert!(false, "it was asked"),
        }
    }
}
