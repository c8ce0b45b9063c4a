// SPDX-License-Identifier: Apache-2.0
//! What a request to the API server is about.

use std::fmt;

use http::{Method, Uri};

/// What is asked for, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// All of a kind.
    List,
    /// A stream.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Verb {
    /// Whether it changes anything.
    pub fn is_write(self) -> bool {
        match self {
            Self::Create | Self::Update | Self::Patch | Self::Delete => true,
            Self::Get | Self::List | Self::Watch => false,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// A request, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What is asked for.
    pub verb: Verb,
    /// `endpointslices`, `pods/status`; for paths outside the resource APIs the path.
    pub resource: String,
    /// Empty for cluster-scoped kinds and for all namespaces.
    pub namespace: String,
    /// Empty for collections and creations.
    pub name: String,
}

impl Call {
    /// Takes a request apart.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let (resource, namespace, name) = parts(uri.path());
        let watching = uri.query().is_some_and(|query| {
            query
                .split('&')
                .any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"))
        });
        let verb = match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if watching => Verb::Watch,
            _ if name.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        Self {
            verb,
            resource,
            namespace,
            name,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}/{}",
            self.verb, self.resource, self.namespace, self.name
        )
    }
}

/// Resource, namespace, name of a path.
fn parts(path: &str) -> (String, String, String) {
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    let rest = match &words[..] {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] if !rest.is_empty() => rest,
        _ => return (path.to_owned(), String::new(), String::new()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (resource, name) = match rest {
        [resource, name, sub @ ..] if !sub.is_empty() => (format!("{resource}/{}", sub.join("/")), *name),
        [resource, name] => ((*resource).to_owned(), *name),
        [resource] => ((*resource).to_owned(), ""),
        _ => (path.to_owned(), ""),
    };
    (resource, namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let cases = [
            ("GET", "/api/v1/pods?watch=true&resourceVersion=1", "watch pods /"),
            ("GET", "/api/v1/pods?limit=500", "list pods /"),
            ("GET", "/api/v1/nodes/n1", "get nodes /n1"),
            ("GET", "/api/v1/namespaces/shop", "get namespaces /shop"),
            (
                "POST",
                "/api/v1/namespaces/shop/endpoints",
                "create endpoints shop/",
            ),
            (
                "PUT",
                "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-x?fieldManager=m",
                "update endpointslices shop/web-x",
            ),
            (
                "PATCH",
                "/api/v1/namespaces/shop/services/web/status",
                "patch services/status shop/web",
            ),
            (
                "DELETE",
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l",
                "delete leases kube-system/l",
            ),
            ("GET", "/version", "list /version /"),
        ];
        for (method, uri, expected) in cases {
            let call = Call::of(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!(call.to_string(), expected, "{method} {uri}");
        }
    }
}
