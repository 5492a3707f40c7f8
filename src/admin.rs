//! The admin kubeconfig with its credentials: reading them, and replacing nothing but them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use crate::cert::kubeconfig::{document, from_document, host};
use crate::cert::parse::BASE64;
use crate::material::MeshSecrets;
use crate::mesh::SecretRole;

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

/// The document that counts, whatever the shape of its parts, wiped afterwards.
#[derive(PartialEq)]
struct Document(Value);

impl Document {
    fn read(text: &str) -> Result<Self, Unusable> {
        from_document(text).ok().flatten().map(Self).ok_or(Unusable::Invalid)
    }

    /// The first of a list's elements that has this name and of which this holds, by its body; kubectl accepts one without a name.
    fn named(&self, list: &str, kind: &str, name: &str, fits: impl Fn(&Value) -> bool) -> Result<&Value, Unusable> {
        let elements = self.0[list].as_array().into_iter().flatten();
        let bodies = elements.filter(|element| text(element, "name") == name).map(|element| &element[kind]);
        bodies.into_iter().find(|body| fits(body)).ok_or(Unusable::Unresolved)
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(elements) => elements.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A field's text; none is as good as an empty one.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

impl AdminKubeconfig {
    /// Reads the current context, as the observing plane does ([`cert::kubeconfig`](crate::cert::kubeconfig)).
    ///
    /// # Errors
    /// It is no kubeconfig, does not resolve, or has no embedded credentials.
    pub fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        let whole = std::str::from_utf8(bytes).map_err(|_| Unusable::Invalid)?;
        let config = Document::read(document(whole).ok_or(Unusable::Invalid)?)?;
        let current = Some(text(&config.0, "current-context")).filter(|current| !current.is_empty());
        let leads = |context: &Value| context["cluster"].is_string() && context["user"].is_string();
        let context = config.named("contexts", "context", current.ok_or(Unusable::Unresolved)?, leads)?;
        let has_server = |cluster: &Value| !text(cluster, "server").is_empty();
        let cluster = config.named("clusters", "cluster", text(context, "cluster"), has_server)?;
        let user_name = text(context, "user");
        let user = config.named("users", "user", user_name, |_| true)?;
        let (certificate, key) = (text(user, "client-certificate-data"), text(user, "client-key-data"));
        if certificate.is_empty() || key.is_empty() {
            return Err(Unusable::NoClientCertificate);
        }
        Ok(Self {
            server: text(cluster, "server").to_owned(),
            tls_server_name: cluster["tls-server-name"].as_str().map(str::to_owned),
            ca: decode(text(cluster, "certificate-authority-data"))?.to_vec(),
            certificate: decode(certificate)?.to_vec(),
            key: decode(key)?,
            certificate_text: certificate.to_owned(),
            key_text: Zeroizing::new(key.to_owned()),
            user: user_name.to_owned(),
        })
    }

    /// The one among a mesh's Secrets, if there is one that can be read.
    pub fn of(secrets: &MeshSecrets) -> Option<Self> {
        let secret = secrets[SecretRole::AdminKubeconfig as usize].as_ref()?;
        secret.material.entries().find_map(|(_, bytes)| Self::read(bytes).ok())
    }

    /// The host of `server`.
    pub fn host(&self) -> &str {
        host(&self.server)
    }

    /// The same document with another client certificate and key, both PEM. `bytes` are those that this was read from.
    ///
    /// # Errors
    /// Something else of it would change.
    pub fn with_client(&self, bytes: &[u8], certificate: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, Unusable> {
        let whole = std::str::from_utf8(bytes).map_err(|_| Unusable::Invalid)?;
        let former = document(whole).ok_or(Unusable::Invalid)?;
        let (certificate, key) = (STANDARD.encode(certificate), Zeroizing::new(STANDARD.encode(key)));
        let mut wanted = Document::read(former)?;
        let users = wanted.0["users"].as_array_mut().ok_or(Unusable::Unresolved)?;
        let user = users.iter_mut().find(|user| text(user, "name") == self.user).ok_or(Unusable::Unresolved)?;
        let user = user["user"].as_object_mut().ok_or(Unusable::Unresolved)?;
        user.insert("client-certificate-data".to_owned(), certificate.as_str().into());
        // The former key goes with it.
        if let Some(mut former) = user.insert("client-key-data".to_owned(), key.as_str().into()) {
            wipe(&mut former);
        }
        // What stands around the document that counts stays; within it comments, order and quoting too, where each text stands in one piece.
        let (before, after) = whole.split_once(former).ok_or(Unusable::Rewrite)?;
        let around = |document: &str| Zeroizing::new([before, document, after].concat().into_bytes());
        let edited = Zeroizing::new(former.replace(&self.certificate_text, &certificate));
        let edited = Zeroizing::new(edited.replace(self.key_text.as_str(), &key));
        if Document::read(&edited).is_ok_and(|edited| edited == wanted) {
            return Ok(around(&edited));
        }
        // Else the document is written anew: JSON is YAML too. With so much room no half of it is left behind where it grows.
        let mut written = Zeroizing::new(Vec::with_capacity(2 * (whole.len() + certificate.len() + key.len())));
        if former.starts_with("---") {
            written.extend_from_slice(b"---\n");
        }
        serde_json::to_writer_pretty(&mut *written, &wanted.0).map_err(|_| Unusable::Rewrite)?;
        written.push(b'\n');
        Ok(around(std::str::from_utf8(&written).map_err(|_| Unusable::Rewrite)?))
    }
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, Unusable> {
    let compact: Zeroizing<String> = Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
    BASE64.decode(compact.as_bytes()).map(Zeroizing::new).map_err(|_| Unusable::Invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::cert::Position;
    use crate::cert::parse::{NamePool, Retain, read_entry};
    use crate::testpki::{Ca, kubeconfig};

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
        assert_eq!((admin.host(), &*admin.ca), ("m-hosted-apiserver", &b"CA"[..]));
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
        let several = format!("%YAML 1.2\n---\n{text}--- # after\nkind: Other\n");
        let changed = admin.with_client(several.as_bytes(), "new", "key").unwrap();
        assert_eq!(&*AdminKubeconfig::read(&changed).unwrap().certificate, b"new");
        let changed = std::str::from_utf8(&changed).unwrap();
        assert!(
            changed.starts_with("%YAML 1.2\n---\n{") && changed.ends_with("}\n--- # after\nkind: Other\n"),
            "{changed}"
        );
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

    /// What the observing plane takes for the server and the client's certificate, or that the latter cannot be used.
    fn observed(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
        let entry = read_entry(bytes, Retain::Der, &mut NamePool::default());
        let facts = entry.kubeconfig?;
        let is_current =
            |position: &Position| matches!(position, Position::User(name, 0) if facts.user.as_ref() == Some(name));
        let client = entry.certificates.into_iter().find(|found| is_current(&found.position))?;
        Some((facts.server?.to_string(), client.certificate.der?.to_vec()))
    }

    #[test]
    fn an_odd_kubeconfig_is_read_as_the_observing_plane_reads_it() {
        let ca = Ca::new("kubernetes", 100);
        let (client, other) = (ca.leaf("kubernetes-admin", 10, &[]), ca.leaf("other", 10, &[]));
        let text = kubeconfig(SERVER, &ca.pem, &client);
        let data = STANDARD.encode(&client);
        let nameless = text.replace("- name: kubernetes-admin\n", "-\n").replace("user: kubernetes-admin", "user: ''");
        assert_ne!(nameless, text);
        let der =
            |pem: &[u8]| read_entry(pem, Retain::Der, &mut NamePool::default()).certificates[0].certificate.der.clone();
        for odd in [
            format!("{text}- user: {{token: x}}\n"),
            format!("{text}- just text\n- {{name: [a], user: 1}}\n"),
            format!("{text}- {{name: a, name: b, user: {{token: x, token: y}}}}\n"),
            format!("{text}- {{name: no, user: ~}}\n"),
            format!("# a note\n{text}---\nkind: Config\nusers: []\n"),
            format!("---\n{text}--- [\n"),
            format!("\u{feff}{text}"),
            nameless,
            text.replace("server: ", "server: 'https://former', server: "),
            text.replace(
                "client-certificate-data: ",
                &format!("client-certificate-data: {}, client-certificate-data: ", STANDARD.encode(&other)),
            ),
            text.replace(&data, data.trim_end_matches('=')),
            text.replace("contexts:\n", "contexts:\n- [x]\n- {name: x, context: {user: {}}}\n"),
            text.replace(
                "clusters:\n",
                "clusters:\n- 1.5\n- {name: x, cluster: {server: true}}\n- {name: kubernetes}\n",
            ),
        ] {
            let admin = AdminKubeconfig::read(odd.as_bytes()).unwrap_or_else(|error| panic!("{error}: {odd}"));
            let read = (admin.server.clone(), der(&admin.certificate).unwrap().to_vec());
            assert_eq!(Some(&read), observed(odd.as_bytes()).as_ref(), "{odd}");
            assert_eq!(read, (SERVER.to_owned(), der(client.as_bytes()).unwrap().to_vec()), "{odd}");
            let changed = admin.with_client(odd.as_bytes(), &other, "key").unwrap();
            let next = (SERVER.to_owned(), der(other.as_bytes()).unwrap().to_vec());
            assert_eq!(observed(&changed), Some(next), "{odd}");
            assert_eq!(AdminKubeconfig::read(&changed).unwrap().key.as_slice(), b"key");
        }
        for unusable in [
            text.replace("current-context: k", "current-context: ''# k"),
            text.replace("user: kubernetes-admin}", "user: gone}"),
            text.replace("server: ", "other: "),
            "--- {}\n".to_owned() + &text,
        ] {
            assert!(
                AdminKubeconfig::read(unusable.as_bytes()).is_err() && observed(unusable.as_bytes()).is_none(),
                "{unusable}"
            );
        }
    }
}
