// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use berth_controllers_core::certificates::{Authority, Fault, New, Stored, plan};
use k8s_openapi::ByteString;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::document::Held;
use super::*;

const RULES: Rules = Rules::DEFAULT;

fn made(number: u32) -> Held {
    let new = plan(None, &[], now(), &RULES).new.unwrap();
    Held::make(&New { number, ..new }).unwrap()
}

fn document(numbers: &[u32]) -> Document {
    let mut document = Document::default();
    for number in numbers {
        document.add(made(*number));
    }
    document
}

type Data = BTreeMap<String, ByteString>;

fn data(document: &Document) -> Data {
    let mut data = Data::new();
    document.write(&mut data);
    data
}

fn faults(stored: &Stored) -> Vec<(&str, &str)> {
    let fault = |(entry, fault): &'_ (String, Fault)| (entry.clone().leak() as &str, fault.as_str());
    stored.faults.iter().map(fault).collect()
}

fn seconds(authority: &Authority) -> (u32, u64, u64, bool) {
    (
        authority.number,
        authority.not_before.as_secs(),
        authority.not_after.as_secs(),
        authority.has_key,
    )
}

#[test]
fn what_is_written_is_read_again() {
    let written = document(&[1, 2]);
    let (read, stored) = Document::read(&data(&written), &RULES);
    assert_eq!(faults(&stored), []);
    assert_eq!(read.bundle(), written.bundle());
    let times = |document: &Document| document.row().iter().map(seconds).collect::<Vec<_>>();
    assert_eq!(times(&read), times(&written));
    for (read, written) in read.row().iter().zip(written.row()) {
        assert!(read.signs_from.abs_diff(written.signs_from) < Duration::from_millis(1));
    }
}

/// An entry, what is put in its place, the fault, and which authorities are left with or without their key.
type Garbage = (
    &'static str,
    Option<&'static str>,
    &'static str,
    &'static [(u32, bool)],
);

const ALL: &[(u32, bool)] = &[(1, true), (2, true)];
const SECOND: &[(u32, bool)] = &[(2, true)];
const KEYLESS: &[(u32, bool)] = &[(1, false), (2, true)];
/// In place of this text, the key of another authority.
const ANOTHER: &str = "another";

const GARBAGE: &[Garbage] = &[
    ("authority-1.crt", Some("x"), "CertificateMalformed", SECOND),
    ("authority-1.crt", None, "CertificateMissing", SECOND),
    ("authority-1.key", Some("x"), "KeyMalformed", KEYLESS),
    ("authority-1.key", Some(ANOTHER), "KeyOfAnother", KEYLESS),
    ("authority-1.signs-from", Some("-1"), "SignsFromMalformed", ALL),
    ("authority-1.signs-from", Some("NaN"), "SignsFromMalformed", ALL),
    (
        "authority-1.signs-from",
        Some("1.8446744073709550e19"),
        "SignsFromMalformed",
        ALL,
    ),
    ("authority-01.crt", Some("x"), "UnknownEntry", ALL),
    ("authority-x", Some("x"), "UnknownEntry", ALL),
    ("ca.crt", Some("x"), "BundleDiffers", ALL),
];

#[test]
fn each_kind_of_garbage_is_told_and_what_is_good_beside_it_is_kept() {
    let good = data(&document(&[1, 2]));
    let another = data(&document(&[1]));
    for (entry, value, fault, left) in GARBAGE {
        let mut broken = good.clone();
        match *value {
            Some(ANOTHER) => broken.insert((*entry).to_owned(), another[*entry].clone()),
            Some(text) => broken.insert((*entry).to_owned(), ByteString(text.as_bytes().to_vec())),
            None => broken.remove(*entry),
        };
        let (read, stored) = Document::read(&broken, &RULES);
        assert!(
            faults(&stored).contains(&(entry, fault)),
            "{entry}: {:?}",
            stored.faults
        );
        let row: Vec<(u32, bool)> = read.row().iter().map(|a| (a.number, a.has_key)).collect();
        assert_eq!(row, *left, "{entry} {fault}");
        // What is written then is without fault, so that it is not written again and again.
        read.write(&mut broken);
        assert_eq!(faults(&Document::read(&broken, &RULES).1), [], "{entry} {fault}");
    }
}

#[test]
fn a_certificate_that_is_no_authority_is_none() {
    let mut broken = data(&document(&[1]));
    let leaf = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let pem = leaf.cert.pem().into_bytes();
    broken.insert("authority-1.crt".to_owned(), ByteString(pem));
    let (read, stored) = Document::read(&broken, &RULES);
    assert!(faults(&stored).contains(&("authority-1.crt", "NotAnAuthority")));
    assert!(read.row().is_empty());
}

proptest! {
    #[test]
    fn nothing_in_a_secret_makes_it_unreadable(
        entries in proptest::collection::btree_map("(ca.crt|authority-[0-9]{0,11}(.crt|.key|.signs-from)?)", any::<Vec<u8>>(), 0..8),
    ) {
        let mut broken: Data = entries.into_iter().map(|(entry, bytes)| (entry, ByteString(bytes))).collect();
        let (read, stored) = Document::read(&broken, &RULES);
        prop_assert!(read.row().is_empty());
        let plan = plan(Some(&stored), &[], now(), &RULES);
        prop_assert!(plan.new.is_some());
        read.write(&mut broken);
        prop_assert_eq!(Document::read(&broken, &RULES).1.faults, vec![]);
    }
}

proptest! {
    #[test]
    fn what_is_left_of_a_secret_with_one_wrong_byte_can_be_used(entry in 0_usize..4, place in 0_usize..900, byte in any::<u8>()) {
        let mut broken = data(&document(&[1]));
        let value = broken.values_mut().nth(entry).unwrap();
        let length = value.0.len();
        value.0[place % length] = byte;
        let (read, _) = Document::read(&broken, &RULES);
        for authority in read.row().iter().filter(|authority| authority.has_key) {
            credentials(&read, authority.number);
        }
        read.write(&mut broken);
        prop_assert_eq!(Document::read(&broken, &RULES).1.faults, vec![]);
    }
}

fn credentials(document: &Document, number: u32) -> Credentials {
    let held = document.get(number).unwrap();
    let row = document.row();
    let authority = row.iter().find(|authority| authority.number == number).unwrap();
    let leaf = leaf(authority, now(), &RULES);
    let names = Names::of_service("berth-system", "berth-admission");
    Credentials::make(held, leaf, &names, document.certificates(), document.bundle()).unwrap()
}

/// Whether a client and a server of mutual TLS exchange a byte.
async fn agree(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> bool {
    let (near, far) = duplex(64 * 1024);
    let served = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    };
    let asked = async {
        let mut stream = TlsConnector::from(client).connect(replica_name(), near).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await
    };
    let (served, asked) = tokio::join!(served, asked);
    served.is_ok() && asked.is_ok()
}

#[tokio::test]
async fn replicas_trust_each_other_over_a_rotation_and_nobody_else() {
    let before = document(&[1]);
    let mut during = before.clone();
    during.add(made(2));
    let stranger = credentials(&document(&[1]), 1);
    // One has begun to sign with the new authority, the other has not.
    let (old, new) = (credentials(&during, 1), credentials(&during, 2));
    assert!(agree(old.replica_client(), new.replica_server()).await);
    assert!(agree(new.replica_client(), old.replica_server()).await);
    assert!(!agree(stranger.replica_client(), old.replica_server()).await);
    assert!(!agree(old.replica_client(), stranger.replica_server()).await);
    // The webhook's side asks for no certificate, and shows the same authority's.
    assert!(agree(old.replica_client(), new.webhook()).await);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_not_let_in_by_replicas() {
    let ours = credentials(&document(&[1]), 1);
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(ours.bundle().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bare = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let bare = Arc::new(bare);
    assert!(agree(bare.clone(), ours.webhook()).await);
    assert!(!agree(bare, ours.replica_server()).await);
}
