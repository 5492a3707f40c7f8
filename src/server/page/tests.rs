use std::collections::BTreeMap;

use super::*;
use crate::cert::{Attribute, CertFingerprint, Certificate, KeyAlgorithm, Name, Position, Role, SerialNumber};
use crate::follower::{Known, SourceHealth, Unreadable, View};
use crate::inventory::{Shard, Snapshot};
use crate::mesh::{Component, Finding, HostedMesh, MeshCertificate, MeshKey, Naming, Reason, SecretRole};
use crate::metrics;
use crate::metrics::exposition::ClusterSnapshot;
use crate::metrics::renewals::{EndpointState, RenewalMetrics, Served};
use crate::policy::Thresholds;
use crate::renewal::{Phase, Renewal, Spec, Status, StepRecord};
use crate::server::overview::{self, Given};
use crate::time::DAY;

const NOW: UnixTime = UnixTime(1_795_465_260);

fn mk_certificate(key: &str, role: Role, signer: u8, own: u8, end: UnixTime) -> MeshCertificate {
    MeshCertificate {
        secret_role: SecretRole::KubeCerts,
        key: key.into(),
        position: Position::Index(0),
        certificate: Certificate {
            subject: Arc::new(Name([(Attribute::Cn, key.into())].into())),
            issuer: Arc::default(),
            serial_number: SerialNumber(vec![own].into()),
            not_before: NOW.plus(-300 * DAY),
            not_after: end,
            role,
            key_algorithm: KeyAlgorithm::Rsa(2048),
            fingerprint: CertFingerprint([own; 32]),
            der: None,
        },
        component: Component::Other,
        signed_by: Some(CertFingerprint([signer; 32])),
        effective_not_after: end,
        in_use: true,
    }
}

/// What is known of a mesh whose one leaf ends then, by a process that looks at no endpoints.
fn mk_given(end: UnixTime) -> Given {
    mk_found(end, vec![])
}

/// The same where this was found.
fn mk_found(end: UnixTime, findings: Vec<Finding>) -> Given {
    let key = MeshKey { namespace: "istio-system".into(), id: "demo".parse().unwrap() };
    let mut mesh = HostedMesh::assemble(Naming::default().secret_names(&key.id), key.clone(), [None, None, None]);
    mesh.certificates = vec![
        mk_certificate("ca.crt", Role::Ca, 1, 1, NOW.plus(3_000 * DAY)),
        mk_certificate("apiserver.crt", Role::Leaf, 1, 2, end),
        mk_certificate("odd.crt", Role::Leaf, 9, 3, NOW.plus(200 * DAY)),
    ];
    mesh.findings = findings;
    mesh.expiration = Some(end);
    let shard = Shard { meshes: [(key, Arc::new(mesh))].into(), ..Shard::default() };
    let snapshot = Arc::new(Snapshot { shards: vec![Arc::new(shard)] });
    let clusters = vec![ClusterSnapshot { name: "cp-1".into(), snapshot }];
    Given {
        clusters,
        sources: vec![],
        served: Served::default(),
        now: NOW,
        thresholds: Thresholds { renew_before: 30 * DAY, urgent_before: 3 * DAY },
    }
}

/// The same of a mesh whose endpoints showed this.
fn mk_serving(end: UnixTime, endpoints: Vec<EndpointState>) -> Given {
    let metrics = RenewalMetrics::default();
    metrics.endpoints(&"cp-1".into(), endpoints);
    Given { served: metrics.served(), ..mk_given(end) }
}

fn mk_endpoint(endpoint: &str, not_after: Option<UnixTime>, stale: bool) -> EndpointState {
    EndpointState {
        namespace: "istio-system".to_owned(),
        mesh: "demo".to_owned(),
        endpoint: endpoint.to_owned(),
        not_after,
        stale,
    }
}

/// A mesh whose one leaf ends in three days, with these renewals.
fn mk_fleet(renewals: Vec<Renewal>, failure: Option<&str>) -> Fleet {
    let known = |renewal| Known { cluster: "cp-1".into(), renewal: Arc::new(renewal) };
    let source = SourceHealth {
        cluster: "cp-1".into(),
        namespace: None,
        listed: failure.is_none(),
        last_success: None,
        failure: failure.map(str::to_owned),
        cut_off: false,
        unreadable: BTreeMap::new(),
    };
    let view = View { renewals: renewals.into_iter().map(known).collect(), sources: vec![source] };
    Fleet::make(mk_given(NOW.plus(3 * DAY)), Arc::new(view))
}

fn mk_renewal(name: &str, phase: Phase, message: &str) -> Renewal {
    Renewal {
        name: name.to_owned(),
        namespace: "istio-system".to_owned(),
        created: Some(NOW.plus(-600)),
        spec: Spec { mesh_id: "demo".to_owned(), ..Spec::default() },
        status: Status {
            phase,
            message: message.to_owned(),
            attempt: 1,
            phase_since: Some(NOW.plus(-60)),
            ..Status::default()
        },
        ..Renewal::default()
    }
}

fn mk_step(name: Phase, attempt: u32, result: &str) -> StepRecord {
    let finished_at = (!result.is_empty()).then_some(NOW.plus(-60));
    StepRecord { name, attempt, started_at: NOW.plus(-90), finished_at, result: result.to_owned() }
}

/// The words of a mesh's page, without tags.
fn words(fleet: &Fleet) -> String {
    let mut html = String::new();
    mesh::body(&mut html, fleet, &fleet.rows[0]).unwrap();
    without_tags(&html)
}

/// The words of the first page, without tags.
fn first_words(given: Given) -> String {
    let mut html = String::new();
    list::body(&mut html, &Fleet::make(given, Arc::default()), &Asked::default()).unwrap();
    without_tags(&html)
}

fn without_tags(html: &str) -> String {
    let tags = regex::Regex::new("<[^>]*>").unwrap();
    tags.replace_all(html, " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_others_wrote_stays_text() {
    let hostile = "<img src=x onerror='alert(1)'>&\"\u{202e}";
    assert_eq!(Escaped(hostile).to_string(), "&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;\u{fffd}");
}

#[test]
fn certificates_stand_under_the_ca_that_signed_them_and_strangers_apart() {
    let words = words(&mk_fleet(vec![], None));
    let order = [
        "Signed by CN=ca.crt",
        "ca.crt demo-kube-certs",
        "apiserver.crt demo-kube-certs 3 days",
        "Signed by no CA of this mesh",
        "odd.crt demo-kube-certs 200 days",
    ];
    let found: Vec<_> =
        order.iter().map(|part| words.find(part).unwrap_or_else(|| panic!("{part} in {words}"))).collect();
    assert!(found.is_sorted(), "{words}");
    assert!(words.contains("meshcert has not renewed this mesh."));
}

#[test]
fn an_endpoint_that_serves_something_else_is_told_from_one_that_says_nothing() {
    let served = vec![
        mk_endpoint("etcd-0:2379", Some(NOW.plus(100 * DAY)), false),
        mk_endpoint("etcd-1:2379", Some(NOW.plus(3 * DAY)), true),
        mk_endpoint("etcd-2:2379", None, false),
    ];
    let words = words(&Fleet::make(mk_serving(NOW.plus(100 * DAY), served), Arc::default()));
    assert!(words.contains("etcd-0:2379 the stored certificate 100 days"), "{words}");
    assert!(words.contains("etcd-1:2379 not the stored certificate: it has to restart 3 days"), "{words}");
    assert!(words.contains("etcd-2:2379 no TLS handshake came about"), "{words}");
}

#[test]
fn a_mesh_whose_endpoint_serves_an_old_certificate_or_none_needs_attention() {
    let far = NOW.plus(300 * DAY);
    let old = ("stale", "MeshcertServedCertificateStale");
    let silent = ("unreachable", "MeshcertEndpointUnreachable");
    for (not_after, stale, said, (state, runbook)) in [
        (Some(NOW.plus(3 * DAY)), true, "api-0:6443 serves another certificate than the stored one", old),
        (Some(NOW.plus(-DAY)), true, "api-0:6443 serves a certificate that has ended, and not the stored one", old),
        (Some(NOW.plus(-DAY)), false, "api-0:6443 serves the stored certificate, which has ended", old),
        (None, false, "api-0:6443 answers no TLS handshake", silent),
    ] {
        let given = || mk_serving(far, vec![mk_endpoint("api-0:6443", not_after, stale)]);
        let first = first_words(given());
        let headline = format!("1 of 1 mesh needs attention Of demo, {said}.");
        for part in [headline, format!("{state} 1"), format!("Runbook for demo: {runbook}")] {
            assert!(first.contains(&part), "{part} in {first}");
        }
        let answer: serde_json::Value = serde_json::from_slice(&overview::make(&given()).json).unwrap();
        let mesh = &answer["meshes"][0];
        let endpoint = serde_json::json!({ "endpoint": "api-0:6443", "notAfter": not_after, "stale": stale });
        assert_eq!((&mesh["state"], &mesh["endpoints"][0]), (&state.into(), &endpoint));
    }
    let expired = first_words(mk_serving(NOW.plus(-DAY), vec![mk_endpoint("api-0:6443", Some(NOW.plus(-DAY)), false)]));
    assert!(!expired.contains("api-0:6443"), "it is said of the mesh: {expired}");
    let silent = first_words(mk_serving(NOW.plus(-DAY), vec![mk_endpoint("api-0:6443", None, false)]));
    assert!(silent.contains("expired 1") && silent.contains("api-0:6443 answers no TLS handshake"), "{silent}");
}

#[test]
fn a_finding_does_not_hide_that_a_mesh_is_about_to_end() {
    let broken = Finding {
        secret_role: SecretRole::KubeCerts,
        key: "apiserver.crt".into(),
        position: Position::Index(1),
        reason: Reason::CertificateMissing,
        message: "apiserver-kubelet-client.crt is missing".to_owned(),
    };
    for (days, state) in [(2, "urgent"), (20, "invalid"), (200, "invalid")] {
        let first = first_words(mk_found(NOW.plus(days * DAY), vec![broken.clone()]));
        assert!(first.contains(&format!("{state} 1")) && first.contains(&broken.message), "{first}");
        for part in
            ["apiserver.crt of kube-certs ends", "No renewal was asked for", "MspiderHostedKubeAPICertExpiration"]
        {
            assert_eq!(first.contains(part), days < 30, "{part}: {first}");
        }
    }
}

#[test]
fn all_is_well_only_where_endpoints_are_looked_at_too() {
    let far = NOW.plus(300 * DAY);
    let unseen = "What endpoints serve is not seen here: the process that leads";
    let seen = mk_serving(far, vec![mk_endpoint("api-0:6443", Some(far), false)]);
    assert!(first_words(seen).starts_with("All is well Nothing ends within 30 days. As of"));
    let first = first_words(mk_given(far));
    assert!(first.starts_with("All that can be seen is well Nothing ends within 30 days. "), "{first}");
    assert!(first.contains(unseen), "{first}");
    let mesh = words(&Fleet::make(mk_given(far), Arc::default()));
    assert!(mesh.contains("Served by endpoints What they serve is not seen here"), "{mesh}");
    assert!(mesh.contains("Lease meshcert-leader"), "who can be asked is named: {mesh}");
    let answer: serde_json::Value = serde_json::from_slice(&overview::make(&mk_given(far)).json).unwrap();
    assert_eq!(
        (&answer["meshes"][0]["state"], &answer["meshes"][0]["endpoints"]),
        (&"ok".into(), &serde_json::Value::Null)
    );
}

#[test]
fn what_the_page_was_asked_for_outlives_a_reload_without_scripts() {
    let asked = |refresh: &str| Asked {
        q: "a&b".to_owned(),
        state: "expired".to_owned(),
        page: "2".to_owned(),
        refresh: refresh.to_owned(),
    };
    let page = |refresh: &str| document("", Some(&asked(refresh)), |_| Ok(()));
    let query = "?q=a%26b&amp;state=expired&amp;page=2";
    let still = page("");
    assert!(still.contains("stands still without scripts: <a href=\"\">load it again</a>"), "{still}");
    assert!(still.contains(&format!("<a href=\"{query}&amp;refresh=15\">have it loaded")), "{still}");
    let moving = page("30");
    assert!(moving.contains("loaded every 30 seconds") && !moving.contains("stands still"), "{moving}");
    assert!(moving.contains(&format!("<a href=\"{query}\">let it stand still</a>")), "{moving}");
    assert!(page("1").contains("stands still"), "that would be a burden");
    assert!(!document("", None, |_| Ok(())).contains("<noscript>"), "a runbook does not change");
}

#[test]
fn a_link_to_a_runbook_names_the_renewal_that_counts() {
    let fleet = mk_fleet(vec![mk_renewal("demo-1", Phase::Failed, "")], None);
    let place = "mesh=demo&amp;namespace=istio-system&amp;cluster=cp-1";
    assert_eq!(fleet.rows[0].runbook_link("A"), format!("/runbooks/A?{place}&amp;renewal=demo-1"));
    assert_eq!(mk_fleet(vec![], None).rows[0].runbook_link("A"), format!("/runbooks/A?{place}"));
}

#[test]
fn whoever_leads_no_more_says_nothing_of_endpoints() {
    let (metrics, cluster) = (RenewalMetrics::default(), "cp-1".into());
    metrics.leader(&cluster, true);
    metrics.endpoints(&cluster, vec![mk_endpoint("api-0:6443", Some(NOW), false)]);
    assert_ne!(metrics.served(), Served::default());
    metrics.leader(&cluster, false);
    assert_eq!(metrics.served(), Served::default());
}

#[test]
fn steps_are_those_of_the_present_attempt_and_say_what_is_to_come() {
    let mut renewal = mk_renewal("demo-1", Phase::Committing, "2 of 3 Secrets hold it");
    renewal.status.attempt = 2;
    renewal.status.steps = vec![
        mk_step(Phase::Staging, 1, "the API server was away"),
        mk_step(Phase::Auditing, 2, "all is as it must be"),
        mk_step(Phase::Committing, 2, ""),
    ];
    let words = words(&mk_fleet(vec![renewal], None));
    for part in [
        "asked for by a person",
        ", attempt 2",
        "Judging the new certificates (done) 30 seconds all is as it must be",
        "Replacing the Secrets (now) for 90 seconds 2 of 3 Secrets hold it",
        "Restarting (to come) Proving what is served (to come)",
        "Earlier attempts Making new certificates attempt 1,",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert!(!words.contains("Waiting for approval"), "nobody is asked any more");
}

#[test]
fn what_came_with_the_creation_is_said_not_to_count_until_a_person_says_it() {
    let shown = |generation| {
        let mut renewal = Renewal { generation, ..mk_renewal("demo-1", Phase::AwaitingApproval, "") };
        renewal.spec.force = true;
        words(&mk_fleet(vec![renewal], None))
    };
    assert!(shown(1).contains(", created with force, which does not count") && !shown(1).contains(", forced"));
    assert!(shown(2).contains(", forced") && !shown(2).contains("does not count"));
}

#[test]
fn a_renewal_that_failed_says_when_it_is_tried_again_and_the_others_are_listed() {
    let mut failed = mk_renewal("demo-2", Phase::Failed, "etcd-0 is not ready");
    failed.status.next_attempt_at = Some(NOW.plus(7_200));
    let mut old = mk_renewal("demo-1", Phase::Succeeded, "every endpoint serves it");
    old.status.cleaned_up = true;
    let words = words(&mk_fleet(vec![old, failed], None));
    for part in [
        "Failed etcd-0 is not ready. Tried again in 2 hours.",
        "Runbook MeshcertRenewalFailed",
        "Failed (ended)",
        "Other renewals of this mesh (1) Renewed and proven",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
}

#[test]
fn renewals_that_may_not_be_read_are_said_and_the_rest_is_shown() {
    let fleet = mk_fleet(vec![], Some("list certificaterenewals: 403; grant the verbs list and watch"));
    let words = words(&fleet);
    assert!(words.contains("Renewals cannot be read list certificaterenewals: 403; grant the verbs"), "{words}");
    assert!(words.contains("3 days left") && words.contains("apiserver.crt"), "{words}");
    let mut html = String::new();
    list::body(&mut html, &fleet, &Asked::default()).unwrap();
    assert!(html.contains("Renewals of cp-1, all namespaces") && html.contains("not readable"), "{html}");
}

/// Where every certificate and endpoint is well, with this source of renewals.
fn mk_calm(change: impl FnOnce(&mut SourceHealth)) -> Fleet {
    let far = NOW.plus(300 * DAY);
    let mut view = View { sources: mk_fleet(vec![], None).view.sources.clone(), ..View::default() };
    change(&mut view.sources[0]);
    Fleet::make(mk_serving(far, vec![mk_endpoint("api-0:6443", Some(far), false)]), Arc::new(view))
}

/// The first page, and its words.
fn first_page(fleet: &Fleet) -> (String, String) {
    let mut html = String::new();
    list::body(&mut html, fleet, &Asked::default()).unwrap();
    let words = without_tags(&html);
    (html, words)
}

#[test]
fn all_is_well_only_where_renewals_can_be_read() {
    let (_, calm) = first_page(&mk_calm(|_| {}));
    assert!(calm.starts_with("All is well Nothing ends within 30 days. As of"), "{calm}");
    let (html, words) = first_page(&mk_calm(|source| source.failure = Some("the kind is not known".to_owned())));
    let headline = "All that can be seen is well Nothing ends within 30 days. Not all renewals can be read. As of";
    assert!(words.starts_with(headline), "{words}");
    assert!(words.contains("Renewals of cp-1, all namespaces not readable the kind is not known;"), "{words}");
    assert_eq!(html.matches("href=\"/runbooks/MeshcertNotActing\"").count(), 2, "in the summary and beside it");
}

#[test]
fn a_renewal_that_cannot_be_read_is_named_with_what_is_wrong() {
    let mk_unreadable = |number: usize| {
        let (name, namespace) = (format!("odd-{number:02}"), "istio-system".to_owned());
        let one = Unreadable { name, namespace, why: "status.attempt: <b>".to_owned(), ..Unreadable::default() };
        ((one.namespace.clone(), one.name.clone()), one)
    };
    let fleet = mk_calm(|source| source.unreadable = (0..12).map(mk_unreadable).collect());
    let (_, words) = first_page(&fleet);
    assert!(
        words.starts_with("All that can be seen is well") && words.contains("Not all renewals can be read."),
        "{words}"
    );
    let line = "Renewal odd-09 of cp-1, istio-system not readable status.attempt: &lt;b&gt; Runbook MeshcertNotActing";
    assert!(words.contains(line) && words.contains("and 2 more") && !words.contains("odd-10"), "{words}");
    let mesh = self::words(&fleet);
    let line =
        "A renewal cannot be read It may be of this mesh: odd-00: status.attempt: &lt;b&gt; Runbook MeshcertNotActing";
    assert!(mesh.contains(line) && !mesh.contains("has not renewed this mesh"), "{mesh}");
    let due = Fleet::make(mk_given(NOW.plus(3 * DAY)), Arc::clone(&fleet.view));
    let (_, due) = first_page(&due);
    assert!(due.contains("What is done about it cannot be read odd-00: status.attempt"), "{due}");
}

#[test]
fn a_renewal_in_trouble_needs_attention_however_long_the_mesh_lasts() {
    let mk = |renewal| {
        let known = Known { cluster: "cp-1".into(), renewal: Arc::new(renewal) };
        let view = View { renewals: [known].into_iter().collect(), ..View::default() };
        Fleet::make(mk_given(NOW.plus(300 * DAY)), Arc::new(view))
    };
    let first = |renewal| {
        let mut html = String::new();
        list::body(&mut html, &mk(renewal), &Asked::default()).unwrap();
        without_tags(&html)
    };
    let mut held = mk_renewal("demo-1", Phase::Pending, "no window is open");
    held.status.reason = "OutsideWindow".to_owned();
    let mut stuck = mk_renewal("demo-1", Phase::Restarting, "etcd: 1 of 3 pods");
    stuck.status.phase_since = Some(NOW.plus(-4 * 3_600));
    for (renewal, said, runbook) in [
        (mk_renewal("demo-1", Phase::Failed, "no"), "Failed", "MeshcertRenewalFailed"),
        (mk_renewal("demo-1", Phase::Refused, "no"), "Refused", "MeshcertRenewalRefused"),
        (held, "Held up", "MeshcertRenewalHeld"),
        (stuck, "Restarting for 4 hours", "MeshcertRenewalStuck"),
    ] {
        let words = first(renewal);
        let headline = format!("1 of 1 mesh needs attention The renewal of demo needs a look: {said}.");
        assert!(words.starts_with(&headline), "{words}");
        assert!(words.contains(&format!("Runbook for demo: {runbook}")), "{words}");
    }
    for phase in [Phase::Restarting, Phase::Succeeded, Phase::AwaitingApproval] {
        let words = first(mk_renewal("demo-1", phase, ""));
        assert!(words.starts_with("All that can be seen is well"), "{phase:?}: {words}");
    }
}

#[test]
fn renewals_in_trouble_stand_before_what_ends_soon_and_after_what_is_missing() {
    let rank = |days: i64, phase| {
        let known = Known { cluster: "cp-1".into(), renewal: Arc::new(mk_renewal("demo-1", phase, "")) };
        let view = View { renewals: [known].into_iter().collect(), ..View::default() };
        let mut fleet = Fleet::make(mk_given(NOW.plus(days * DAY)), Arc::new(view));
        fleet.rows.remove(0)
    };
    let order = [
        rank(2, Phase::Staging),
        rank(20, Phase::Failed),
        rank(300, Phase::Failed),
        rank(10, Phase::Staging),
        rank(300, Phase::Staging),
        rank(200, Phase::Succeeded),
    ];
    assert!(order.is_sorted_by(|a, b| a.rank() < b.rank()));
}

#[test]
fn nothing_is_said_to_be_missing_where_sources_cannot_be_read() {
    let source = |name: &str, up| metrics::SourceHealth {
        source: name.into(),
        up,
        last_success: None,
        objects: 0,
        errors: vec![("forbidden", u64::from(!up) * 6)],
        resyncs: 0,
        message: (!up).then(|| "list secrets: 403 <b>".to_owned()),
    };
    let html = |sources| {
        let mut html = String::new();
        let given = Given { clusters: vec![], sources, ..mk_given(NOW) };
        list::body(&mut html, &Fleet::make(given, Arc::default()), &Asked::default()).unwrap();
        html
    };
    let none = html(vec![source("cp-1", false)]);
    let words = without_tags(&none);
    assert!(words.starts_with("Nothing is known: no source can be read One source cannot be read."), "{words}");
    assert!(none.contains("never answered, 6 failed requests; list secrets: 403 &lt;b&gt;<"), "{none}");
    let some = without_tags(&html(vec![source("cp-1", false), source("cp-2", true)]));
    assert!(some.starts_with("No hosted meshes where sources can be read One source cannot be read."), "{some}");
    for words in [&words, &some] {
        assert!(!words.contains("None found"), "{words}");
    }
    let all = without_tags(&html(vec![source("cp-1", true)]));
    assert!(all.starts_with("No hosted meshes") && all.contains("None found."), "{all}");
}
