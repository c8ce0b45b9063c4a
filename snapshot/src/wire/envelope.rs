// SPDX-License-Identifier: Apache-2.0
//! What is around objects: watch events, statuses, and the envelope of each
//! (apimachinery `runtime.Unknown`, `meta/v1` of Kubernetes 1.37).

use super::field::{Field, Fields, Malformed, entry};

/// What an enveloped object starts with (apimachinery, `serializer/protobuf`).
pub(super) const MAGIC: &[u8] = b"k8s\0";
/// The annotation of the bookmark that ends the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One object: its bytes, without envelope, and what they say of its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// The message of its kind.
    pub raw: &'a [u8],
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Never empty.
    pub name: &'a str,
    /// The resource version.
    pub version: &'a str,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// ADDED or MODIFIED.
    Applied(Object<'a>),
    /// DELETED.
    Deleted(Object<'a>),
    /// Everything up to this version has been sent.
    Bookmark {
        /// The version.
        version: &'a str,
        /// Whether it ends the initial events of a streaming list.
        initial_events_end: bool,
    },
    /// ERROR: the watch is over.
    Error(Refusal),
}

/// A `Status` that says no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP code.
    pub code: u16,
    /// A word, such as `Expired`.
    pub reason: String,
    /// The server's text.
    pub message: String,
    /// The words of its causes, such as `ResourceVersionTooLarge`.
    pub causes: Vec<String>,
}

/// Reads a frame of a watch of `kind`.
///
/// # Errors
/// What is wrong with it.
pub fn read_frame<'a>(frame: &'a [u8], kind: &str) -> Result<Frame<'a>, Malformed> {
    // Kubernetes 1.37 sends the event bare; an envelope around it is read as well.
    let frame = match frame.strip_prefix(MAGIC) {
        Some(enveloped) => unknown(enveloped)?.1,
        None => frame,
    };
    let (mut event, mut object): (&str, &[u8]) = ("", &[]);
    for field in Fields::of(frame) {
        let field = field?;
        match field.number {
            1 => event = field.text()?,
            2 => object = raw_extension(field)?,
            _ => {}
        }
    }
    match event {
        "ADDED" | "MODIFIED" => identify(open(object, kind)?).map(Frame::Applied),
        "DELETED" => identify(open(object, kind)?).map(Frame::Deleted),
        "BOOKMARK" => {
            let head = Head::of(open(object, kind)?)?;
            Ok(Frame::Bookmark {
                version: head.version,
                initial_events_end: head.initial_events_end,
            })
        }
        "ERROR" => read_status(object).map(Frame::Error),
        other => Err(Malformed::EventType(other.to_owned())),
    }
}

/// Reads an enveloped `Status`.
///
/// # Errors
/// What is wrong with it.
pub fn read_status(bytes: &[u8]) -> Result<Refusal, Malformed> {
    let mut refusal = Refusal::default();
    for field in Fields::of(open(bytes, "Status")?) {
        let field = field?;
        match field.number {
            3 => refusal.message = field.string()?,
            4 => refusal.reason = field.string()?,
            5 => refusal.causes = causes(field)?,
            6 => refusal.code = u16::try_from(field.int64()?).map_err(|_| field.out_of_range())?,
            _ => {}
        }
    }
    Ok(refusal)
}

/// Takes the envelope off an object of `kind`.
///
/// # Errors
/// What is wrong with it.
pub fn open<'a>(bytes: &'a [u8], kind: &str) -> Result<&'a [u8], Malformed> {
    let (found, raw) = unknown(bytes.strip_prefix(MAGIC).ok_or(Malformed::Magic)?)?;
    if found == kind {
        return Ok(raw);
    }
    let found = found.to_owned();
    Err(Malformed::Kind { found })
}

/// Who an object is, without reading the rest of it.
///
/// # Errors
/// What is wrong with it.
pub fn identify(raw: &[u8]) -> Result<Object<'_>, Malformed> {
    let head = Head::of(raw)?;
    if head.name.is_empty() {
        return Err(Malformed::Nameless);
    }
    Ok(Object {
        raw,
        namespace: head.namespace,
        name: head.name,
        version: head.version,
    })
}

fn message(field: Field<'_>) -> Result<Fields<'_>, Malformed> {
    field.bytes().map(Fields::of)
}

/// The bytes of a `runtime.RawExtension`.
fn raw_extension(field: Field<'_>) -> Result<&[u8], Malformed> {
    let mut raw: &[u8] = &[];
    for field in message(field)? {
        let field = field?;
        if field.number == 1 {
            raw = field.bytes()?;
        }
    }
    Ok(raw)
}

/// Kind and bytes of a `runtime.Unknown`.
fn unknown(bytes: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut kind, mut raw): (&str, &[u8]) = ("", &[]);
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => kind = kind_of(field.bytes()?)?,
            2 => raw = field.bytes()?,
            _ => {}
        }
    }
    Ok((kind, raw))
}

/// The kind of a `runtime.TypeMeta`.
pub(super) fn kind_of(type_meta: &[u8]) -> Result<&str, Malformed> {
    let mut kind = "";
    for field in Fields::of(type_meta) {
        let field = field?;
        if field.number == 2 {
            kind = field.text()?;
        }
    }
    Ok(kind)
}

fn causes(details: Field<'_>) -> Result<Vec<String>, Malformed> {
    let mut causes = Vec::new();
    for field in message(details)? {
        let field = field?;
        if field.number == 4 {
            for field in message(field)? {
                let field = field?;
                if field.number == 1 {
                    causes.push(field.string()?);
                }
            }
        }
    }
    Ok(causes)
}

/// The used part of an `ObjectMeta`, in place.
#[derive(Default)]
struct Head<'a> {
    name: &'a str,
    namespace: &'a str,
    version: &'a str,
    initial_events_end: bool,
}

impl<'a> Head<'a> {
    /// Reads it off an object: `metadata` is field 1 of every kind.
    fn of(raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut head = Self::default();
        for field in Fields::of(raw) {
            let field = field?;
            if field.number != 1 {
                continue;
            }
            for field in message(field)? {
                let field = field?;
                match field.number {
                    1 => head.name = field.text()?,
                    3 => head.namespace = field.text()?,
                    6 => head.version = field.text()?,
                    12 => head.initial_events_end |= entry(field.bytes()?)? == (INITIAL_EVENTS_END, "true"),
                    _ => {}
                }
            }
            // What follows may be megabytes of status.
            break;
        }
        Ok(head)
    }
}
