// SPDX-License-Identifier: Apache-2.0
//! What the kinds have in common: addresses, targets, ports.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;

use super::Texts;
use super::meta::Uid;

/// An address in the one form that can be written back; any other text as it is.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Ip(IpAddr),
    Text(Box<str>),
}

impl Address {
    pub(super) fn of(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == text => Self::Ip(ip),
            Ok(_) | Err(_) => Self::Text(text.into()),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Ip(ip) => ip.to_string(),
            Self::Text(text) => text.to_string(),
        }
    }
}

/// What an address stands for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    None,
    /// A Pod of the object's own namespace.
    Pod {
        name: Box<str>,
        uid: Uid,
    },
    Other(Box<ObjectReference>),
}

const POD: &str = "Pod";

impl Target {
    pub(super) fn pack(target: Option<&ObjectReference>, own: &str) -> Self {
        let Some(target) = target else { return Self::None };
        let ObjectReference {
            api_version: None,
            field_path: None,
            kind: Some(kind),
            name: Some(name),
            namespace: Some(namespace),
            resource_version: None,
            uid: Some(uid),
        } = target
        else {
            return Self::Other(Box::new(target.clone()));
        };
        if kind != POD || namespace != own {
            return Self::Other(Box::new(target.clone()));
        }
        Self::Pod {
            name: name.as_str().into(),
            uid: Uid::of(uid),
        }
    }

    pub(super) fn unpack(&self, own: &str) -> Option<ObjectReference> {
        match self {
            Self::None => None,
            Self::Pod { name, uid } => Some(ObjectReference {
                kind: Some(POD.to_owned()),
                name: Some(name.to_string()),
                namespace: Some(own.to_owned()),
                uid: Some(uid.text()),
                ..ObjectReference::default()
            }),
            Self::Other(target) => Some((**target).clone()),
        }
    }
}

/// A port of either kind of object; a slice's may lack its number.
#[derive(Clone, Debug)]
pub(super) struct Port {
    name: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    app_protocol: Option<Arc<str>>,
    pub(super) number: Option<i32>,
}

impl Port {
    pub(super) fn pack(
        name: Option<&String>,
        protocol: Option<&String>,
        app_protocol: Option<&String>,
        number: Option<i32>,
        texts: &mut Texts,
    ) -> Self {
        let mut text = |text: Option<&String>| text.map(|text| texts.get(&**text));
        Self {
            name: text(name),
            protocol: text(protocol),
            app_protocol: text(app_protocol),
            number,
        }
    }

    /// Name, protocol and application protocol.
    pub(super) fn texts(&self) -> [Option<String>; 3] {
        [&self.name, &self.protocol, &self.app_protocol].map(owned)
    }
}

pub(super) fn owned(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}
