//! Finds the way to a cluster: in-cluster, a kubeconfig file, or a kubeconfig found in a Secret.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::iter::successors;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::client::AuthError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::digest;
use crate::ports::{SourceError, SourceErrorReason};

/// How a cluster is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Connection {
    /// The service account of the pod.
    InCluster,
    /// The current kubeconfig (`KUBECONFIG`, `~/.kube/config`), or the pod's service account where there is none.
    Current {
        /// Context, if not the current one.
        context: Option<String>,
        /// What it was; `None` where there is none that can be read, or nothing in it.
        read: Option<Reading>,
        /// Whether there is none: it is not named, and not in its usual place.
        is_absent: bool,
    },
    /// A kubeconfig file.
    File {
        /// Its path.
        path: PathBuf,
        /// Context, if not the current one.
        context: Option<String>,
        /// What it was; `None` where it cannot be read, or nothing is in it.
        read: Option<Reading>,
    },
    /// A kubeconfig from a Secret: it may hold nothing that runs, reads or redirects.
    Document {
        /// Where it comes from, for messages.
        origin: Arc<str>,
        /// Its text.
        text: Arc<Zeroizing<Vec<u8>>>,
    },
}

/// A kubeconfig as it was when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading {
    /// Of all that it holds: with other credentials it is another connection.
    digest: String,
    /// The server of the context, where that resolves.
    server: Option<String>,
}

impl Connection {
    /// By way of the current kubeconfig as it is now.
    pub fn current(context: Option<String>) -> Self {
        let files = current_files();
        let read = Reading::of(&files, context.as_deref());
        Self::Current { context, read, is_absent: files.is_empty() }
    }

    /// By way of a kubeconfig file as it is now.
    pub fn file(path: PathBuf, context: Option<String>) -> Self {
        let read = Reading::of(std::slice::from_ref(&path), context.as_deref());
        Self::File { path, context, read }
    }

    /// Whether this is what became of a kubeconfig that could be read, or stands where the pod's service account did.
    pub fn replaces(&self, former: &Self) -> bool {
        match (former, self) {
            (Self::File { path: known, context: within, read: Some(_) }, Self::File { path, context, .. }) => {
                (known, within) == (path, context) && former != self
            }
            (Self::Current { context: known, read, .. }, Self::Current { context, .. }) => {
                known == context && (read.is_some() || is_inside(former)) && former != self
            }
            _ => false,
        }
    }

    /// # Errors
    /// This does not lead to the cluster of the connection that it [replaces](Self::replaces), as after `kubectl config use-context`: what is known by its name would
    /// be mixed with what is elsewhere.
    fn leads_where(&self, former: &Self) -> Result<(), SourceError> {
        let refuse = |message| Err(SourceError { reason: SourceErrorReason::Kubeconfig, message });
        match (former.read().and_then(|read| read.server.as_deref()), self.read()) {
            _ if former.read().is_none() => refuse(format!(
                "{self:?} is there now, in place of {:?}: that may be another cluster; take it away, or restart if it is meant",
                Self::InCluster
            )),
            (_, None) => refuse(format!("{self:?} is gone or empty; put it back, or restart to go on without it")),
            (Some(known), Some(Reading { server: Some(server), .. })) if server != known => refuse(format!(
                "{self:?} leads to {server}, and led to {known} before: that may be another cluster; name the context in clusters[].context, or restart if it is meant"
            )),
            _ => Ok(()),
        }
    }

    /// Whether this and another lead to one server, as far as they tell: with other credentials it is still the same cluster.
    pub fn leads_where_does(&self, other: &Self) -> bool {
        self == other || self.server().is_some_and(|server| other.server() == Some(server))
    }

    fn server(&self) -> Option<String> {
        match self {
            Self::Document { text, .. } => server(harmless(text).ok()?, None),
            Self::InCluster | Self::Current { .. } | Self::File { .. } => self.read()?.server.clone(),
        }
    }

    /// The same way, as it is now.
    fn read_again(&self) -> Self {
        match self {
            Self::Current { context, .. } => Self::current(context.clone()),
            Self::File { path, context, .. } => Self::file(path.clone(), context.clone()),
            Self::InCluster | Self::Document { .. } => self.clone(),
        }
    }

    fn read(&self) -> Option<&Reading> {
        match self {
            Self::Current { read, .. } | Self::File { read, .. } => read.as_ref(),
            Self::InCluster | Self::Document { .. } => None,
        }
    }
}

impl Reading {
    /// Of these files together, with those with credentials that they name; of those that hold a token the client takes care itself.
    fn of(paths: &[PathBuf], context: Option<&str>) -> Option<Self> {
        let (mut held, mut merged) = (Vec::new(), Some(Kubeconfig::default()));
        for path in paths {
            held.push(Zeroizing::new(std::fs::read(path).ok()?));
            // Paths in it are relative to itself. One that cannot be parsed names none.
            let kubeconfig = Kubeconfig::read_from(path).ok();
            held.extend(kubeconfig.iter().flat_map(named_files));
            merged = merged.zip(kubeconfig).and_then(|(merged, next)| merged.merge(next).ok());
        }
        let server = merged.and_then(|merged| server(merged, context));
        held.iter().any(|bytes| !bytes.trim_ascii().is_empty()).then(|| Self { digest: digest::sha256(held), server })
    }
}

/// The files of the current kubeconfig, where the client looks for them; none where none is named and the usual one is not there.
fn current_files() -> Vec<PathBuf> {
    let named: Vec<_> = std::env::var_os("KUBECONFIG").iter().flat_map(std::env::split_paths).collect();
    let named: Vec<_> = named.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
    if named.is_empty() {
        let usual = std::env::home_dir().map(|home| home.join(".kube/config"));
        usual.filter(|path| !matches!(path.try_exists(), Ok(false))).into_iter().collect()
    } else {
        named
    }
}

/// What the files with credentials hold that a kubeconfig names.
fn named_files(kubeconfig: &Kubeconfig) -> Vec<Zeroizing<Vec<u8>>> {
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let mut paths: Vec<_> = users.flat_map(|user| [&user.client_certificate, &user.client_key]).collect();
    paths.extend(clusters.map(|cluster| &cluster.certificate_authority));
    paths.into_iter().flatten().map(|path| Zeroizing::new(std::fs::read(path).unwrap_or_default())).collect()
}

/// The server of a context, or of the current one.
fn server(kubeconfig: Kubeconfig, context: Option<&str>) -> Option<String> {
    let name = context.or(kubeconfig.current_context.as_deref())?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?;
    cluster.cluster.as_ref()?.server.clone()
}

/// Shows the place, never the document: it holds credentials.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => f.write_str("the pod's service account"),
            Self::Current { .. } => f.write_str("the current kubeconfig"),
            Self::File { path, .. } => write!(f, "the kubeconfig {}", path.display()),
            Self::Document { origin, .. } => write!(f, "the kubeconfig in {origin}"),
        }
    }
}

/// A kubeconfig in a Secret larger than this is refused.
const LARGEST_DOCUMENT: usize = 256 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an exec plugin.
const PLUGIN_DEADLINE: Duration = Duration::from_secs(15);
/// Runs of one kubeconfig's exec plugin at the same time: one that hangs is not killed, and holds a thread.
const MOST_PLUGINS: usize = 4;
/// By the digest of the kubeconfig: one that is mended does not wait for what hangs of the one before.
static PLUGINS: Mutex<BTreeMap<String, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

/// A client for the cluster.
///
/// # Errors
/// The kubeconfig cannot be read or used, or leads elsewhere by now; the message names it and the remedy.
pub async fn connect(connection: &Connection) -> Result<Client, SourceError> {
    let unusable = |error: &dyn fmt::Display| SourceError {
        reason: SourceErrorReason::Kubeconfig,
        message: format!("{connection:?} cannot be used: {error}"),
    };
    // It is read anew, whenever that is, and may lead elsewhere by now.
    let now = connection.read_again();
    if now.replaces(connection) {
        now.leads_where(connection)?;
    }
    let options = |context: &Option<String>| KubeConfigOptions { context: context.clone(), ..Default::default() };
    let mut config = match connection {
        Connection::InCluster => Config::incluster().map_err(|error| unusable(&error))?,
        Connection::Current { context, read, is_absent } => match Config::from_kubeconfig(&options(context)).await {
            Ok(config) => config,
            // Not `Config::infer`, which logs the parser's words, and takes other credentials where a kubeconfig cannot be read.
            Err(error) if context.is_none() && *is_absent => Config::incluster()
                .map_err(|inside| unusable(&format!("{}; nor {:?}: {inside}", chain(&error), Connection::InCluster)))?,
            Err(error) if read.is_none() && !is_absent => {
                let remedy = format!("put it right, or take it away where {:?} is meant", Connection::InCluster);
                return Err(unusable(&format!("{}; {remedy}", chain(&error))));
            }
            Err(error) => return Err(unusable(&chain(&error))),
        },
        Connection::File { path, context, .. } => {
            let file = Kubeconfig::read_from(path).map_err(|error| unusable(&chain(&error)))?;
            Config::from_custom_kubeconfig(file, &options(context)).await.map_err(|error| unusable(&chain(&error)))?
        }
        Connection::Document { text, .. } => {
            let document = harmless(text).map_err(|refusal| unusable(&refusal))?;
            // Its own words could quote the document.
            let quiet = |_| unusable(&"its current context, cluster or user does not resolve");
            Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await.map_err(quiet)?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // What is refused for now is told, and tried again by whoever asked: the library would try until the deadline, after which nobody knows that there were answers.
    config.default_retry = false;
    let digest = now.read().map(|read| read.digest.clone()).unwrap_or_default();
    client(config, digest, PLUGIN_DEADLINE).await.map_err(|error| unusable(&error))
}

/// The client of what stands in a kubeconfig of this digest. The library waits for an exec plugin where it is called, so it is called where waiting disturbs nobody.
async fn client(config: Config, digest: String, deadline: Duration) -> Result<Client, String> {
    if config.auth_info.exec.is_none() {
        return Client::try_from(config).map_err(|error| chain(&error));
    }
    let runs = {
        let mut all = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, runs| Arc::strong_count(runs) > 1);
        Arc::clone(all.entry(digest).or_insert_with(|| Arc::new(Semaphore::new(MOST_PLUGINS))))
    };
    let made = async {
        let run = runs.acquire_owned().await;
        spawn_blocking(move || {
            let _run = run;
            Client::try_from(config)
        })
        .await
    };
    match timeout(deadline, made).await {
        Ok(Ok(made)) => made.map_err(|error| chain(&error)),
        Ok(Err(_)) => Err("its exec plugin could not be run".to_owned()),
        Err(_) => Err(format!("its exec plugin has not ended within {} s", deadline.as_secs())),
    }
}

/// Whether this process runs in a pod of the cluster, as far as its credentials say.
pub fn is_inside(connection: &Connection) -> bool {
    match connection {
        Connection::InCluster => true,
        // Without a kubeconfig it is the pod's service account that is used, where there is one.
        Connection::Current { context: None, is_absent: true, .. } => {
            std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        }
        Connection::Current { .. } | Connection::File { .. } | Connection::Document { .. } => false,
    }
}

/// An error with its causes, without what is secret.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    if let Some(words) = successors(Some(error), |error| (**error).source()).find_map(censored) {
        return words;
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// Other words for an error whose own would quote a kubeconfig, or what an exec plugin printed: there may be a token in them.
fn censored(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(KubeconfigError::Parse(error)) = error.downcast_ref() {
        return Some(format!("it is no valid kubeconfig{}", place(error)));
    }
    match error.downcast_ref()? {
        AuthError::AuthExecParse(error) => {
            Some(format!("what its exec plugin printed is no valid ExecCredential{}", place(error)))
        }
        // The command has its arguments and environment with it.
        AuthError::AuthExecRun { cmd: _, out } => Some(format!("its exec plugin failed with {}", out.status)),
        _ => None,
    }
}

fn place(error: &serde_saphyr::Error) -> String {
    let place = |at: serde_saphyr::Location| format!(" (line {}, column {})", at.line(), at.column());
    error.location().map(place).unwrap_or_default()
}

/// The document, if it holds nothing that would make this process run a program, read a file, use a proxy or trust anybody.
fn harmless(text: &[u8]) -> Result<Kubeconfig, String> {
    if text.len() > LARGEST_DOCUMENT {
        return Err(format!("it has more than {} KiB", LARGEST_DOCUMENT >> 10));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let document = Kubeconfig::from_yaml(text).map_err(|error| chain(&error))?;
    let refuse = |what: &str, name: &str, field: &str| {
        Err(format!(
            "{what} {name:?} has {field}, which is refused in a kubeconfig from a Secret; embed certificates or a token instead"
        ))
    };
    for named in &document.auth_infos {
        let Some(user) = &named.auth_info else { continue };
        for (set, field) in [
            (user.exec.is_some(), "exec"),
            (user.auth_provider.is_some(), "auth-provider"),
            (user.token_file.is_some(), "tokenFile"),
            (user.client_certificate.is_some(), "client-certificate (a file path)"),
            (user.client_key.is_some(), "client-key (a file path)"),
        ] {
            if set {
                return refuse("user", &named.name, field);
            }
        }
    }
    for named in &document.clusters {
        let Some(cluster) = &named.cluster else { continue };
        for (set, field) in [
            (cluster.certificate_authority.is_some(), "certificate-authority (a file path)"),
            (cluster.proxy_url.is_some(), "proxy-url"),
            (cluster.insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify"),
        ] {
            if set {
                return refuse("cluster", &named.name, field);
            }
        }
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_document(cluster: &str, user: &str) -> Connection {
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: one, cluster: {{server: 'https://127.0.0.1:1', {cluster}}}}}], \
             users: [{{name: me, user: {{{user}}}}}], \
             contexts: [{{name: c, context: {{cluster: one, user: me}}}}]}}"
        );
        Connection::Document { origin: "Secret ns/remote".into(), text: Arc::new(Zeroizing::new(text.into_bytes())) }
    }

    #[tokio::test]
    async fn a_kubeconfig_from_a_secret_may_not_run_read_or_redirect() {
        for (cluster, user, field) in [
            (
                "",
                "exec: {command: /bin/true, apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}",
                "exec",
            ),
            ("", "auth-provider: {name: gcp, config: {}}", "auth-provider"),
            ("", "tokenFile: /etc/shadow", "tokenFile"),
            ("", "client-certificate: /etc/shadow", "client-certificate"),
            ("", "client-key: /etc/shadow", "client-key"),
            ("certificate-authority: /etc/shadow", "token: t0ps3cret", "certificate-authority"),
            ("proxy-url: 'http://127.0.0.1:1'", "token: t0ps3cret", "proxy-url"),
            ("insecure-skip-tls-verify: true", "token: t0ps3cret", "insecure-skip-tls-verify"),
        ] {
            let Err(error) = connect(&mk_document(cluster, user)).await else { panic!("{field} was accepted") };
            assert_eq!(error.reason, SourceErrorReason::Kubeconfig);
            assert!(error.message.contains(field) && error.message.contains("Secret ns/remote"), "{}", error.message);
            assert!(!error.message.contains("t0ps3cret"));
        }
        assert!(connect(&mk_document("", "token: t0ps3cret")).await.is_ok());
        assert!(!format!("{:?}", mk_document("", "token: t0ps3cret")).contains("t0ps3cret"));
    }

    #[test]
    fn a_kubeconfig_with_other_credentials_is_another_connection() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let at = || Connection::file(folder.path().join("config"), None);
        let missing = at();
        let text =
            "{apiVersion: v1, kind: Config, users: [{name: me, user: {client-certificate: crt, client-key: key}}]}";
        write("config", text);
        write("crt", "one");
        let first = at();
        assert!(first != missing && !first.replaces(&missing), "nothing is lost by trying");
        assert!(at() == first && !at().replaces(&first));
        write("crt", "two");
        let second = at();
        assert!(second.replaces(&first), "a file that it names");
        write("config", &text.replace("me", "you"));
        assert!(at().replaces(&second));
        for gone in ["", " \n"] {
            write("config", gone);
            assert!(at().replaces(&second) && at().leads_where(&second).is_err(), "not another account instead");
        }
        std::fs::remove_file(folder.path().join("config")).unwrap();
        assert!(at().replaces(&second) && !at().replaces(&mk_document("", "")));
        let refused = at().leads_where(&second).unwrap_err().message;
        assert!(refused.contains("config is gone or empty; put it back"), "{refused}");
    }

    #[tokio::test]
    async fn another_cluster_is_not_taken_for_the_same() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("config");
        let reading = |current: &str, token: &str, context: Option<&str>| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, current-context: {current}, users: [{{name: me, user: {{token: {token}}}}}], \
                 clusters: [{{name: a, cluster: {{server: 'https://a'}}}}, {{name: b, cluster: {{server: 'https://b'}}}}], \
                 contexts: [{{name: one, context: {{cluster: a, user: me}}}}, {{name: two, context: {{cluster: b, user: me}}}}, \
                 {{name: three, context: {{cluster: a, user: you}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
            Connection::file(path.clone(), context.map(str::to_owned))
        };
        let known = reading("one", "first", None);
        assert!(reading("one", "second", None).leads_where(&known).is_ok());
        assert!(reading("three", "first", None).leads_where(&known).is_ok(), "another user");
        let refused = reading("two", "first", None).leads_where(&known).unwrap_err().message;
        assert_eq!(connect(&known).await.map(drop).unwrap_err().message, refused, "nor by whoever connects later");
        for words in [path.to_str().unwrap(), "leads to https://b, and led to https://a before", "clusters[].context"] {
            assert!(refused.contains(words), "{refused}");
        }
        assert!(!reading("two", "first", Some("two")).replaces(&known), "beside it, from the same file");
        let named = reading("one", "first", Some("one"));
        assert!(
            reading("two", "first", Some("one")).leads_where(&named).is_ok(),
            "named, the current one is nothing to it"
        );
    }

    /// A kubeconfig whose exec plugin is this script.
    fn with_plugin(script: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: one, cluster: {{server: 'https://127.0.0.1:1'}}}}], \
             users: [{{name: me, user: {{exec: {{command: /bin/sh, args: ['-c', \"{script}\"], \
             apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never}}}}}}], \
             contexts: [{{name: c, context: {{cluster: one, user: me}}}}]}}"
        )
    }

    #[tokio::test]
    async fn what_cannot_be_parsed_is_placed_and_never_quoted() {
        let broken = "apiVersion: v1\nkind: Config\nusers:\n- nam: v\n  user:\n    token: t0ps3cret\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        for (text, words) in [
            (broken.to_owned(), "no valid kubeconfig (line 5, column 3)"),
            (with_plugin("echo token t0ps3cret; exit 3"), "its exec plugin failed with exit status: 3"),
            (with_plugin("echo '{kind: ExecCredential, status: [token, t0ps3cret'"), "no valid ExecCredential (line "),
        ] {
            std::fs::write(&path, &text).unwrap();
            let connection = Connection::file(path.clone(), None);
            let Err(error) = connect(&connection).await else { panic!("{text} was accepted") };
            assert!(error.message.contains(words) && !error.message.contains("t0ps3cret"), "{}", error.message);
        }
        let text = Arc::new(Zeroizing::new(broken.as_bytes().to_vec()));
        let Err(error) = connect(&Connection::Document { origin: "here".into(), text }).await else { panic!() };
        assert!(error.message.ends_with("no valid kubeconfig (line 5, column 3)"), "{}", error.message);
    }

    #[tokio::test]
    async fn an_exec_plugin_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        // It ends with the test's folder.
        let script = format!("while [ -d '{}' ]; do sleep 0.01; done", folder.path().display());
        let document = Kubeconfig::from_yaml(&with_plugin(&script)).unwrap();
        let config = Config::from_custom_kubeconfig(document, &KubeConfigOptions::default()).await.unwrap();
        // More than may run at a time: the last one only waits for the others.
        for _ in 0..=MOST_PLUGINS {
            let digest = folder.path().display().to_string();
            let Err(error) = client(config.clone(), digest, Duration::from_millis(50)).await else {
                panic!("it hangs")
            };
            assert_eq!(error, "its exec plugin has not ended within 0 s");
        }
    }

    #[tokio::test]
    async fn an_unreadable_kubeconfig_is_named() {
        let connection = Connection::file("/nonexistent/config".into(), None);
        let Err(error) = connect(&connection).await else { panic!("there is no such file") };
        assert!(error.message.contains("/nonexistent/config"), "{}", error.message);
    }
}
