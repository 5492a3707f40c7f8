//! The admin kubeconfig with its credentials: reading them, and replacing nothing but them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

/// What the current context of a kubeconfig needs for a login by client certificate.
pub struct AdminKubeconfig {
    /// `server`, a URL.
    pub server: String,
    /// `tls-server-name`, where it is set.
    pub tls_server_name: Option<String>,
    /// The CA's certificates, PEM.
    pub ca: Vec<u8>,
    /// The client's certificate, PEM.
    pub certificate: Vec<u8>,
    /// Its key, PEM.
    pub key: Zeroizing<Vec<u8>>,
    certificate_text: String,
    key_text: Zeroizing<String>,
    user: String,
}

/// Why a kubeconfig cannot be used. No variant quotes it: it holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No valid YAML of the right shape.
    #[error("it is no valid kubeconfig")]
    Invalid,
    /// The current context, its cluster or its user is not there.
    #[error("its current context, cluster or user does not resolve")]
    Unresolved,
    /// No embedded certificate and key.
    #[error("its user has no embedded client certificate and key")]
    NoClientCertificate,
    /// Its text could not be changed in these two places alone.
    #[error("its credentials could not be replaced without changing anything else")]
    Rewrite,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<Named<Cluster>>,
    contexts: Vec<Named<Context>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user")]
    body: T,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
    #[serde(rename = "tls-server-name")]
    tls_server_name: Option<String>,
    #[serde(rename = "certificate-authority-data", default)]
    ca: String,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "client-certificate-data", default)]
    certificate: String,
    #[serde(rename = "client-key-data", default)]
    key: Zeroizing<String>,
}

impl AdminKubeconfig {
    /// Reads the current context.
    ///
    /// # Errors
    /// It is no kubeconfig, does not resolve, or has no embedded credentials.
    pub fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unusable::Invalid)?;
        let document: Document = serde_saphyr::from_str(text).map_err(|_| Unusable::Invalid)?;
        let Document { current_context, clusters, contexts, users } = document;
        let context =
            contexts.into_iter().find(|named| named.name == current_context).ok_or(Unusable::Unresolved)?.body;
        let cluster =
            clusters.into_iter().find(|named| named.name == context.cluster).ok_or(Unusable::Unresolved)?.body;
        let user = users.into_iter().find(|named| named.name == context.user).ok_or(Unusable::Unresolved)?.body;
        if user.certificate.is_empty() || user.key.is_empty() {
            return Err(Unusable::NoClientCertificate);
        }
        Ok(Self {
            server: cluster.server,
            tls_server_name: cluster.tls_server_name,
            ca: decode(&cluster.ca)?.to_vec(),
            certificate: decode(&user.certificate)?.to_vec(),
            key: decode(&user.key)?,
            certificate_text: user.certificate,
            key_text: user.key,
            user: context.user,
        })
    }

    /// The host and port of `server`.
    pub fn host_and_port(&self) -> (&str, u16) {
        let rest = self.server.split_once("://").map_or(self.server.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, port)) => (host, port.trim_start_matches(':')),
            None => authority.rsplit_once(':').unwrap_or((authority, "")),
        };
        (host, port.parse().unwrap_or(443))
    }

    /// The same document with another client certificate and key, both PEM. `document` is the one that this was read from.
    ///
    /// # Errors
    /// Something else of it would change.
    pub fn with_client(&self, document: &[u8], certificate: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, Unusable> {
        let text = std::str::from_utf8(document).map_err(|_| Unusable::Invalid)?;
        let (certificate, key) = (STANDARD.encode(certificate), Zeroizing::new(STANDARD.encode(key)));
        let mut wanted: Value = serde_saphyr::from_str(text).map_err(|_| Unusable::Invalid)?;
        let users = wanted["users"].as_array_mut().ok_or(Unusable::Unresolved)?;
        let user = users.iter_mut().find(|named| named["name"] == *self.user).ok_or(Unusable::Unresolved)?;
        user["user"]["client-certificate-data"] = certificate.as_str().into();
        user["user"]["client-key-data"] = key.as_str().into();
        // Comments, order and quoting stay where each text stands in one piece; else the document is written anew.
        let edited =
            Zeroizing::new(text.replace(&self.certificate_text, &certificate).replace(self.key_text.as_str(), &key));
        let is_wanted = |text: &str| serde_saphyr::from_str::<Value>(text).is_ok_and(|value| value == wanted);
        if is_wanted(&edited) {
            return Ok(Zeroizing::new(edited.as_bytes().to_vec()));
        }
        // JSON is YAML too.
        let written = Zeroizing::new(serde_json::to_vec_pretty(&wanted).map_err(|_| Unusable::Rewrite)?);
        Ok(written)
    }
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, Unusable> {
    let compact: Zeroizing<String> = Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
    STANDARD.decode(compact.as_bytes()).map(Zeroizing::new).map_err(|_| Unusable::Invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::testpki::kubeconfig;

    const SERVER: &str = "https://m-hosted-apiserver:6443";

    proptest! {
        #[test]
        fn a_mutated_kubeconfig_is_refused_or_keeps_its_other_parts(at: Index, byte: u8, end: Index) {
            let mut bytes = kubeconfig(SERVER, "CA", "old").into_bytes();
            let (at, end) = (at.index(bytes.len()), end.index(4 * bytes.len()));
            bytes[at] = byte;
            bytes.truncate(end);
            if let Ok(admin) = AdminKubeconfig::read(&bytes) {
                let changed = admin.with_client(&bytes, "new", "key").unwrap();
                let again = AdminKubeconfig::read(&changed).unwrap();
                prop_assert_eq!((again.certificate.as_slice(), again.key.as_slice()), (&b"new"[..], &b"key"[..]));
                prop_assert_eq!((again.server, again.ca), (admin.server, admin.ca));
            }
        }
    }

    #[test]
    fn only_the_credentials_of_the_current_user_change() {
        let text =
            format!("# kept\n{}- name: other\n  user: {{token: abc}}\n", kubeconfig(SERVER, "CA", "old certificate"));
        let admin = AdminKubeconfig::read(text.as_bytes()).unwrap();
        assert_eq!((admin.host_and_port(), &*admin.ca), (("m-hosted-apiserver", 6443), &b"CA"[..]));
        let changed = admin.with_client(text.as_bytes(), "new certificate", "new key").unwrap();
        let changed_text = std::str::from_utf8(&changed).unwrap();
        assert!(changed_text.starts_with("# kept\n") && changed_text.contains("token: abc"));
        let again = AdminKubeconfig::read(&changed).unwrap();
        assert_eq!((&*again.certificate, again.key.as_slice()), (&b"new certificate"[..], &b"new key"[..]));
        assert_eq!(again.server, SERVER);
    }

    #[test]
    fn credentials_in_several_lines_are_replaced_too() {
        let text = kubeconfig(SERVER, "CA", "old")
            .replace("{client-certificate-data: b2xk, ", "{client-certificate-data: \"b2\n   xk\", ");
        let admin = AdminKubeconfig::read(text.as_bytes()).unwrap();
        assert_eq!(&*admin.certificate, b"old");
        let changed = admin.with_client(text.as_bytes(), "new", "key").unwrap();
        assert_eq!(&*AdminKubeconfig::read(&changed).unwrap().certificate, b"new");
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_being_quoted() {
        let text = kubeconfig(SERVER, "CA", "old");
        for (broken, why) in [
            ("{".to_owned(), Unusable::Invalid),
            (text.replace("current-context: k", "current-context: x"), Unusable::Unresolved),
            (text.replace("client-key-data", "token"), Unusable::NoClientCertificate),
            (text.replace("b2xk", "***"), Unusable::Invalid),
        ] {
            assert_eq!(AdminKubeconfig::read(broken.as_bytes()).err(), Some(why), "{broken}");
        }
    }
}
