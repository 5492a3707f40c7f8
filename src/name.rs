//! Names as Kubernetes takes them (RFC 1123, in small letters), those that are taken, and any as a part of an address.

use std::fmt::{self, Write};

/// The source that tells of clusters.
pub const CLUSTER_SECRETS: &str = "clusterSecrets";
/// The source that tells a webhook alone of meshes.
pub const MESHES_FROM: &str = "webhook.meshesFrom";

/// Whether a source that is no cluster's has this name: no cluster can have it too.
pub fn is_taken(name: &str) -> bool {
    [CLUSTER_SECRETS, MESHES_FROM].contains(&name)
}

/// What a label is, in words.
pub const LABEL: &str = "1 to 63 small letters, digits or '-', and begin and end with a letter or digit";

/// Whether it can be the name of a namespace.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// Whether it can be the name of most other objects: no shell and no path takes it for anything else.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edge = |byte: Option<&u8>| byte.copied().is_some_and(letter);
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|byte| letter(*byte) || *byte == b'-')
}

/// A text as one segment of a path or one value of a query: all but unreserved characters percent-encoded (RFC 3986 section 2.3).
pub struct Encoded<'a>(pub &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                f.write_char(char::from(byte))
            } else {
                write!(f, "%{byte:02X}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        let long = |length| "a".repeat(length);
        for (text, label, subdomain) in [
            ("a", true, true),
            ("0-a", true, true),
            ("istio-system", true, true),
            (&long(63), true, true),
            (&long(64), false, true),
            ("m-1.a", false, true),
            (&long(253), false, true),
            (&long(254), false, false),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a..b", false, false),
            ("a.-b", false, false),
            (".a", false, false),
            ("Istio", false, false),
            ("a_b", false, false),
            ("é", false, false),
            ("a/b", false, false),
            ("a\n", false, false),
            ("*", false, false),
        ] {
            assert_eq!((is_label(text), is_subdomain(text)), (label, subdomain), "{text:?}");
        }
    }
}
