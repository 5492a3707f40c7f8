//! Who may ask, at which address, over which TLS; against the embedded API, with the daemon in this process.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/client.rs"]
mod client;
#[path = "support/served.rs"]
mod served;

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Ca, Client, Pair};
use meshcert::demo::Scenario;
use rcgen::SanType;
use served::{Cluster, OBSERVE_AND_WEBHOOK, Served, eventually, notification};

const MESH: &str = "expiring-1";

async fn mk_cluster() -> Cluster {
    Cluster::start(Scenario::Expiring, Some(1)).await
}

/// `certFile`, `keyFile` and `clientCaFile` with these contents.
fn tls_files(cluster: &Cluster, pair: &Pair, client_ca: Option<&str>) -> String {
    let certificate = cluster.put("tls.crt", &pair.certificate);
    let key = cluster.put("tls.key", &pair.key);
    let ca = client_ca.map(|pem| format!(", clientCaFile: '{}'", cluster.put("ca.crt", pem)));
    format!("{{certFile: '{certificate}', keyFile: '{key}'{}}}", ca.unwrap_or_default())
}

fn configure(cluster: &Cluster, rest: &str) -> PathBuf {
    PathBuf::from(cluster.put("meshcert.yaml", &(cluster.clusters() + rest)))
}

async fn status(client: &Client, address: SocketAddr, authorization: &str) -> u16 {
    client.post(address, &[("authorization", authorization)], notification(&[MESH])).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_or_a_password_admits_and_nothing_else_does() {
    let cluster = mk_cluster().await;
    let token = cluster.put("token", "t0ken\n");
    let password = cluster.put("password", "pass:word\n");
    let config =
        format!("webhook: {{bearerTokenFile: '{token}', basicAuth: {{username: am, passwordFile: '{password}'}}}}\n");
    let served = Served::start(&configure(&cluster, &config), OBSERVE_AND_WEBHOOK).await.ready().await;
    let client = Client::default();
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for wrong in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer t0ke",
        "Bearer t0ken2",
        "Basic t0ken",
        "Basic ***",
        &basic("am:pass"),
        &basic("x:pass:word"),
    ] {
        assert_eq!(status(&client, served.main, wrong).await, 401, "{wrong}");
    }
    assert_eq!(cluster.names().await, Vec::<String>::new());
    let refused = r#"meshcert_refusals_total{reason="unauthorized"}"#;
    assert_eq!(served.metric(&client, refused).await.as_deref(), Some("9"));
    for right in ["Bearer t0ken", "bearer t0ken", &basic("am:pass:word")] {
        assert_eq!(status(&client, served.main, right).await, 200, "{right}");
    }
    assert_eq!(cluster.names().await.len(), 1);
    // A credential that vanishes closes the door; another one still opens it.
    std::fs::remove_file(&token).unwrap();
    assert_eq!(status(&client, served.main, "Bearer t0ken").await, 401);
    assert_eq!(status(&client, served.main, &basic("am:pass:word")).await, 200);
    std::fs::write(&password, " \n").unwrap();
    assert_eq!(status(&client, served.main, &basic("am:")).await, 503);
    let disabled = r#"meshcert_refusals_total{reason="disabled"}"#;
    assert_eq!(served.metric(&client, disabled).await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_and_near_identical_notifications_to_two_replicas_make_one_renewal() {
    let cluster = mk_cluster().await;
    let token = cluster.put("token", "t0ken");
    let config = configure(&cluster, &format!("webhook: {{bearerTokenFile: '{token}'}}\n"));
    let replicas = [
        Served::start(&config, OBSERVE_AND_WEBHOOK).await.ready().await,
        Served::start(&config, OBSERVE_AND_WEBHOOK).await.ready().await,
    ];
    let same = notification(&[MESH]);
    let client = Client::default();
    let bearer = [("authorization", "Bearer t0ken")];
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..20 {
        // Other replicas of Prometheus add labels of their own.
        let near = same.replace("\"mesh_cluster\"", &format!("\"replica\":\"{number}\",\"mesh_cluster\""));
        for (served, body) in replicas.iter().flat_map(|served| [(served, same.clone()), (served, near.clone())]) {
            let (client, address) = (client.clone(), served.main);
            flood.spawn(async move { client.post(address, &bearer, body).await.unwrap().0 });
        }
    }
    let answers = flood.join_all().await;
    assert_eq!(answers.len(), 80);
    // What is too much at once is sent again, as Alertmanager does.
    assert!(answers.iter().all(|status| matches!(status, 200 | 503)), "{answers:?}");
    for served in &replicas {
        eventually("the last is taken", async || {
            client.post(served.main, &bearer, same.clone()).await.unwrap().0 == 200
        })
        .await;
    }
    assert_eq!(cluster.names().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_admits_by_its_names() {
    let cluster = mk_cluster().await;
    let (servers, clients, others) = (Ca::new("servers"), Ca::new("clients"), Ca::new("others"));
    let tls = tls_files(&cluster, &servers.server(), Some(&clients.pem));
    let token = cluster.put("token", "t0ken");
    let config = format!(
        "webhook: {{listen: '127.0.0.1:0', tls: {tls}, clientCertificates: [alertmanager, 'spiffe://a/b'], bearerTokenFile: '{token}'}}\n"
    );
    let served = Served::start(&configure(&cluster, &config), OBSERVE_AND_WEBHOOK).await.ready().await;
    let (address, body) = (served.webhook.unwrap(), notification(&[MESH]));
    let with = |pair: &Pair| Client::tls(&servers.pem, Some(pair));
    let uri = [SanType::URI("spiffe://a/b".try_into().unwrap())];
    let dns = [SanType::DnsName("alertmanager".try_into().unwrap())];

    // A certificate of the CA with other names; it may still have a token.
    let stranger = with(&clients.issue("prometheus", &[], 10));
    assert_eq!(stranger.post(address, &[], body.clone()).await.unwrap().0, 403);
    assert_eq!(status(&stranger, address, "Bearer wrong").await, 401);
    // None at all.
    let nobody = Client::tls(&servers.pem, None);
    assert_eq!(nobody.post(address, &[], body.clone()).await.unwrap().0, 401);
    // The right name from another CA, and one that has ended: there is no connection.
    for (what, bad) in [
        ("of another CA", others.issue("alertmanager", &[], 10)),
        ("ended", clients.issue("alertmanager", &[], -1)),
        ("not yet valid", clients.issue("alertmanager", &[], 60)),
    ] {
        let refused = with(&bad).post(address, &[], body.clone()).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    // No TLS.
    assert!(Client::default().post(address, &[], body.clone()).await.is_err());
    assert_eq!(cluster.names().await, Vec::<String>::new());
    let plain = Client::default();
    for (series, count) in [
        (r#"meshcert_refusals_total{reason="client_certificate"}"#, "1"),
        (r#"meshcert_refusals_total{reason="unauthorized"}"#, "2"),
        (r#"meshcert_tls_handshake_failures_total{listener="webhook",reason="client_certificate"}"#, "3"),
        (r#"meshcert_tls_handshake_failures_total{listener="webhook",reason="protocol"}"#, "1"),
    ] {
        assert_eq!(served.metric(&plain, series).await.as_deref(), Some(count), "{series}");
    }

    for right in [clients.issue("alertmanager", &[], 10), clients.issue("x", &uri, 10), clients.issue("y", &dns, 10)] {
        assert_eq!(with(&right).post(address, &[], body.clone()).await.unwrap().0, 200);
    }
    assert_eq!(status(&nobody, address, "Bearer t0ken").await, 200);
    assert_eq!(cluster.names().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_webhook_that_is_not_configured_is_counted() {
    let cluster = mk_cluster().await;
    let served = Served::start(&configure(&cluster, ""), OBSERVE_AND_WEBHOOK).await.ready().await;
    let client = Client::default();
    assert_eq!(status(&client, served.main, "Bearer t0ken").await, 404);
    for series in
        [r#"meshcert_refusals_total{reason="disabled"}"#, r#"meshcert_notifications_total{outcome="refused"}"#]
    {
        assert_eq!(served.metric(&client, series).await.as_deref(), Some("1"), "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_address_of_its_own_the_webhook_is_at_no_other() {
    let cluster = mk_cluster().await;
    let token = cluster.put("token", "t0ken");
    let config = format!("webhook: {{listen: '127.0.0.1:0', bearerTokenFile: '{token}'}}\n");
    let path = configure(&cluster, &config);
    let served = Served::start(&path, OBSERVE_AND_WEBHOOK).await.ready().await;
    let (client, own) = (Client::default(), served.webhook.unwrap());
    assert_ne!(own, served.main);
    assert_eq!(status(&client, served.main, "Bearer t0ken").await, 404);
    assert_eq!(status(&client, own, "Bearer t0ken").await, 200);
    for path in ["/metrics", "/", "/api/v1/meshes", "/-/healthy"] {
        assert_eq!(client.get(own, path).await.unwrap().0, 404, "{path}");
    }
    assert_eq!(client.get(own, "/webhook").await.unwrap().0, 405);
    // The configuration takes it back to the main one while it runs.
    configure(&cluster, &format!("webhook: {{bearerTokenFile: '{token}'}}\n"));
    eventually("it is on the main address", async || status(&client, served.main, "Bearer t0ken").await == 200).await;
    eventually("its own is closed", async || client.get(own, "/webhook").await.is_err()).await;
    // An address that is taken is refused, and what was in force stays.
    let taken = served.main;
    configure(&cluster, &format!("webhook: {{bearerTokenFile: '{token}', listen: '{taken}'}}\n"));
    let series = "meshcert_config_last_reload_successful";
    eventually("it says so", async || served.metric(&client, series).await.as_deref() == Some("0")).await;
    assert_eq!(status(&client, served.main, "Bearer t0ken").await, 200);
    configure(&cluster, &format!("webhook: {{bearerTokenFile: '{token}'}}\n"));
    eventually("what is in force is there again", async || {
        served.metric(&client, series).await.as_deref() == Some("1")
    })
    .await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_address_shows_itself_to_known_clients_and_its_health_to_all() {
    let cluster = mk_cluster().await;
    let (servers, clients) = (Ca::new("servers"), Ca::new("clients"));
    let tls = tls_files(&cluster, &servers.server(), Some(&clients.pem));
    let config = format!("tls: {tls}\nwebhook: {{clientCertificates: []}}\n");
    let known = Client::tls(&servers.pem, Some(&clients.issue("anybody", &[], 10)));
    let unknown = Client::tls(&servers.pem, None);
    let served = Served::start(&configure(&cluster, &config), OBSERVE_AND_WEBHOOK).await.ready_for(&unknown).await;
    for path in ["/metrics", "/", "/api/v1/meshes"] {
        assert_eq!(unknown.get(served.main, path).await.unwrap().0, 403, "{path}");
        assert_eq!(known.get(served.main, path).await.unwrap().0, 200, "{path}");
    }
    assert_eq!(unknown.get(served.main, "/-/healthy").await.unwrap().0, 200);
    assert!(Client::default().get(served.main, "/-/healthy").await.is_err(), "there is no plain HTTP beside it");
    // An empty list: any certificate of that CA.
    assert_eq!(status(&unknown, served.main, "").await, 401);
    assert_eq!(status(&known, served.main, "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_are_taken_and_broken_ones_are_not() {
    let cluster = mk_cluster().await;
    let (old, new, clients, later) = (Ca::new("old"), Ca::new("new"), Ca::new("clients"), Ca::new("later"));
    let first = old.server();
    let tls = tls_files(&cluster, &first, Some(&clients.pem));
    let config =
        configure(&cluster, &format!("webhook: {{listen: '127.0.0.1:0', tls: {tls}, clientCertificates: []}}\n"));
    let served = Served::start(&config, OBSERVE_AND_WEBHOOK).await.ready().await;
    let (plain, address, series) =
        (Client::default(), served.webhook.unwrap(), r#"meshcert_tls_last_reload_successful{listener="webhook"}"#);
    let with = |ca: &Ca, pair: &Pair| Client::tls(&ca.pem, Some(pair));
    let (mine, theirs) = (clients.issue("a", &[], 10), later.issue("a", &[], 10));
    let end = async || {
        served.metric(&plain, r#"meshcert_tls_certificate_not_after_timestamp_seconds{listener="webhook"}"#).await
    };
    assert_eq!(status(&with(&old, &mine), address, "").await, 200);
    assert_eq!(served.metric(&plain, series).await.as_deref(), Some("1"));
    let before = end().await.unwrap();

    // A certificate without its key, as while files are being replaced: the former pair is still shown.
    let second = new.issue("meshcert", &[SanType::DnsName("localhost".try_into().unwrap())], 25);
    cluster.put("tls.crt", &second.certificate);
    eventually("it says so", async || served.metric(&plain, series).await.as_deref() == Some("0")).await;
    assert_eq!(status(&with(&old, &mine), address, "").await, 200);
    assert_eq!(end().await.unwrap(), before);
    // The pair is whole again, and the clients' CA is another one.
    cluster.put("tls.key", &second.key);
    cluster.put("ca.crt", &later.pem);
    eventually("it is taken", async || served.metric(&plain, series).await.as_deref() == Some("1")).await;
    assert_eq!(status(&with(&new, &theirs), address, "").await, 200);
    assert!(with(&old, &theirs).get(address, "/webhook").await.is_err());
    assert!(with(&new, &mine).get(address, "/webhook").await.is_err());
    assert!(end().await.unwrap() > before);
    // Garbage, and the same pair put back: all is well without a change.
    cluster.put("ca.crt", "no CA");
    eventually("it says so again", async || served.metric(&plain, series).await.as_deref() == Some("0")).await;
    cluster.put("ca.crt", &later.pem);
    eventually("it is well again", async || served.metric(&plain, series).await.as_deref() == Some("1")).await;
    assert_eq!(status(&with(&new, &theirs), address, "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_keep_it_from_starting() {
    let cluster = mk_cluster().await;
    let (one, other) = (Ca::new("one").server(), Ca::new("other").server());
    for (certificate, key, ca, words) in [
        ("nothing", &one.key[..], None, "tls.crt: there is no certificate"),
        (&one.certificate, "nothing", None, "tls.key: there is no private key"),
        (&one.certificate, &other.key, None, "tls.key: does not work with the certificate"),
        (&one.certificate, &one.key, Some("nothing"), "ca.crt: no CA for clients"),
    ] {
        let pair = Pair { certificate: certificate.to_owned(), key: key.to_owned() };
        let tls = tls_files(&cluster, &pair, ca);
        let why = Served::try_start(&configure(&cluster, &format!("tls: {tls}\n")), OBSERVE_AND_WEBHOOK).await;
        let why = why.err().unwrap();
        assert!(why.contains(words), "{why}");
        assert!(!why.contains("PRIVATE KEY"), "{why}");
    }
    let why =
        Served::try_start(&configure(&cluster, "tls: {certFile: /nonexistent, keyFile: k}\n"), OBSERVE_AND_WEBHOOK)
            .await;
    assert!(why.err().unwrap().contains("/nonexistent"));
}
