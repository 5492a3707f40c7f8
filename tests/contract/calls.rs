//! The calls, and what of their answers has to be equal.

use http::Method;
use serde_json::{Value, json};

use crate::server::{Answer, Server};

const NAMESPACE: &str = "contract";
const SECRETS: &str = "/api/v1/namespaces/contract/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/contract/leases";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/contract/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/contract/statefulsets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const RENEWALS: &str = "/apis/meshcert.dev/v1alpha1/namespaces/contract/certificaterenewals";

/// What was called, and what of the answer counts.
pub type Notes = Vec<(String, Value)>;

/// Makes every call.
pub async fn make_all(server: &Server) -> Notes {
    let mut notes = Notes::new();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    assert_eq!(server.post("/api/v1/namespaces", &namespace).await.0, 201);
    secrets(server, &mut notes).await;
    lists(server, &mut notes).await;
    watches(server, &mut notes).await;
    applied(server, &mut notes).await;
    leases(server, &mut notes).await;
    workloads(server, &mut notes).await;
    directives(server, &mut notes).await;
    renewals(server, &mut notes).await;
    mistakes(server, &mut notes).await;
    the_end_of_a_kind(server, &mut notes).await;
    notes
}

/// A failure's code and reason, or the object without what differs from server to server.
fn note(notes: &mut Notes, what: &str, (code, body): &Answer) {
    let told = match body["kind"].as_str() {
        Some("Status") if *code >= 400 => json!({ "code": code, "reason": body["reason"], "status": body["status"] }),
        _ => json!({ "code": code, "object": plain(body) }),
    };
    notes.push((what.to_owned(), told));
}

/// What of an answer is picked out.
fn pick(notes: &mut Notes, what: &str, (code, body): &Answer, pointers: &[&str]) {
    let picked: Vec<&Value> = pointers.iter().map(|pointer| body.pointer(pointer).unwrap_or(&Value::Null)).collect();
    notes.push((what.to_owned(), json!({ "code": code, "picked": picked })));
}

fn plain(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        for own in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            if let Some(value) = metadata.remove(own) {
                // That they are there is part of the contract.
                assert!(!value.is_null(), "{own}");
            }
        }
        if let Some(moment) = metadata.get_mut("deletionTimestamp") {
            *moment = json!("set");
        }
    }
    body
}

fn version(answer: &Answer) -> &str {
    answer.1["metadata"]["resourceVersion"].as_str().unwrap()
}

fn mk_secret(name: &str, kind: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "labels": { "which": name } }, "type": kind, "data": { "a": value } })
}

async fn secrets(server: &Server, notes: &mut Notes) {
    let one = &format!("{SECRETS}/one");
    note(notes, "a Secret that is not there", &server.get(one).await);
    note(notes, "patching it", &server.merge(one, &json!({ "data": { "b": "Mg==" } })).await);
    note(notes, "deleting it", &server.delete(one, &json!({})).await);
    let created = server.post(SECRETS, &mk_secret("one", "Opaque", "MQ==")).await;
    note(notes, "a new Secret", &created);
    note(notes, "the same again", &server.post(SECRETS, &mk_secret("one", "Opaque", "MQ==")).await);
    let first = version(&created).to_owned();
    let patched =
        server.merge(one, &json!({ "metadata": { "resourceVersion": first }, "data": { "b": "Mg==" } })).await;
    note(notes, "a patch on the version that was read", &patched);
    let stale = server.merge(one, &json!({ "metadata": { "resourceVersion": first }, "data": { "b": "Mw==" } })).await;
    note(notes, "a patch on an older version", &stale);
    let again = server.merge(one, &json!({ "data": { "b": "Mg==" } })).await;
    notes.push(("a patch that changes nothing".to_owned(), json!(version(&again) == version(&patched))));
    // As preflight tries its rights: what is shown is not stored, and what is wrong is told.
    let trial = &format!("{one}?dryRun=All");
    let shown = server.merge(trial, &json!({ "data": { "b": "OQ==" } })).await;
    let stored = server.get(one).await;
    let kept = json!([shown.0, shown.1["data"], version(&stored) == version(&patched), stored.1["data"]]);
    notes.push(("a patch for show".to_owned(), kept));
    note(notes, "a patch for show that is wrong", &server.merge(trial, &json!({ "data": { "x": "?" } })).await);
    let nothing = server.merge(trial, &json!({})).await;
    notes.push(("an empty patch for show".to_owned(), json!([nothing.0, nothing.1["data"]])));
    let mut next = patched.1.clone();
    next["data"] = json!({ "c": "NA==" });
    note(notes, "a replacement on the version that was read", &server.put(one, &next).await);
    note(notes, "a replacement on an older version", &server.put(one, &next).await);
    note(notes, "a key is removed", &server.merge(one, &json!({ "data": { "c": null, "d": "NQ==" } })).await);
    note(notes, "another type", &server.merge(one, &json!({ "type": "other" })).await);
    note(notes, "data that is no base64", &server.merge(one, &json!({ "data": { "x": "?" } })).await);
    note(notes, "a key that is none", &server.merge(one, &json!({ "data": { "a/b": "MQ==" } })).await);
    let text =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "text" }, "stringData": { "a": "1" } });
    note(notes, "plain text", &server.post(SECRETS, &text).await);
    note(notes, "made immutable", &server.merge(one, &json!({ "immutable": true })).await);
    note(notes, "an immutable one's data", &server.merge(one, &json!({ "data": { "d": "Ng==" } })).await);
    note(notes, "no longer immutable", &server.merge(one, &json!({ "immutable": false })).await);
    note(
        notes,
        "an immutable one's labels",
        &server.merge(one, &json!({ "metadata": { "labels": { "x": "y" } } })).await,
    );
    let other = json!({ "preconditions": { "uid": "11111111-2222-4333-8444-555555555555" } });
    note(notes, "deleting another of this name", &server.delete(one, &other).await);
    let dry = server.delete(one, &json!({ "dryRun": ["All"] })).await;
    notes.push(("deleting for show".to_owned(), json!([dry.0, server.get(one).await.0])));
    let uid = server.get(one).await.1["metadata"]["uid"].clone();
    pick(
        notes,
        "deleting this one",
        &server.delete(one, &json!({ "preconditions": { "uid": uid } })).await,
        &["/status", "/details/name", "/details/kind"],
    );
    note(notes, "it is gone", &server.get(one).await);
    assert_eq!(server.post(SECRETS, &mk_secret("two", "Opaque", "MQ==")).await.0, 201);
    let two = &format!("{SECRETS}/two");
    let seen = [server.delete(&format!("{two}?dryRun=All"), &json!({})).await.0, server.get(two).await.0];
    notes.push(("deleting for show, in the query beside options".to_owned(), json!(seen)));
    for (what, query, options) in [
        ("in the query", "dryRun=All", ""),
        ("in the options", "", r#"{"dryRun":["All"]}"#),
        ("in the query beside options", "dryRun=All", "{}"),
    ] {
        // It is there, whatever the call before has done.
        let _ = server.post(SECRETS, &mk_secret("two", "Opaque", "MQ==")).await;
        let path = format!("{SECRETS}?labelSelector=which%3Dtwo&{query}");
        let deleted = server.send(Method::DELETE, &path, "application/json", options).await;
        notes.push((format!("deleting all for show, {what}"), json!([deleted.0, server.get(two).await.0])));
    }
    let dry = server.post(&format!("{SECRETS}?dryRun=All"), &mk_secret("dry", "Opaque", "MQ==")).await;
    notes.push(("creating for show".to_owned(), json!([dry.0, server.get(&format!("{SECRETS}/dry")).await.0])));
}

fn names(answer: &Answer) -> Value {
    let items = answer.1["items"].as_array().cloned().unwrap_or_default();
    let names = items.iter().map(|item| item["metadata"]["name"].clone());
    let remaining = &answer.1["metadata"]["remainingItemCount"];
    json!({ "code": answer.0, "reason": answer.1["reason"], "names": names.collect::<Vec<_>>(), "remaining": remaining })
}

async fn lists(server: &Server, notes: &mut Notes) {
    for (name, kind) in [("l1", "Opaque"), ("l2", "meshcert.dev/staged"), ("l3", "Opaque"), ("l4", "kubernetes.io/x")] {
        assert_eq!(server.post(SECRETS, &mk_secret(name, kind, "MQ==")).await.0, 201);
    }
    for query in [
        "",
        "labelSelector=which=l1",
        "labelSelector=which%20in%20(l1,l3)",
        "labelSelector=which!=l1",
        "labelSelector=which",
        "labelSelector=!which",
        "labelSelector=which%20notin%20(l1,l2)",
        "labelSelector=which%20in%20l1",
        "fieldSelector=type%3Dmeshcert.dev/staged",
        "fieldSelector=type!%3Dmeshcert.dev/staged,type!%3Dkubernetes.io/x",
        "fieldSelector=metadata.name%3Dl3",
        "fieldSelector=data.a%3DMQ==",
        "limit=2",
        "limit=x",
        "resourceVersion=0",
        "resourceVersion=x",
        "resourceVersion=999999999",
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&resourceVersionMatch=Newest",
        "resourceVersion=x&resourceVersionMatch=Exact",
    ] {
        notes.push((format!("a list with {query}"), names(&server.get(&format!("{SECRETS}?{query}")).await)));
    }
    let now = server.get(SECRETS).await;
    for matching in ["Exact", "NotOlderThan"] {
        let path = format!("{SECRETS}?resourceVersion={}&resourceVersionMatch={matching}", version(&now));
        notes.push((format!("a list of this version, {matching}"), names(&server.get(&path).await)));
    }
    for (resource, field) in [
        ("pods", "spec.nodeName"),
        ("pods", "spec.serviceAccountName"),
        ("pods", "spec.priority"),
        ("services", "spec.type"),
        ("events", "involvedObject.name"),
        ("events", "message"),
        ("configmaps", "metadata.namespace"),
        ("configmaps", "data.a"),
    ] {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{resource}?fieldSelector={field}%3Dx");
        notes.push((format!("a list of {resource} by {field}"), names(&server.get(&path).await)));
    }
    let page = server.get(&format!("{SECRETS}?limit=2")).await;
    let token = page.1["metadata"]["continue"].as_str().unwrap();
    assert_eq!(server.post(SECRETS, &mk_secret("l0", "Opaque", "MQ==")).await.0, 201);
    let rest = server.get(&format!("{SECRETS}?limit=2&continue={token}")).await;
    notes.push(("the next page".to_owned(), names(&rest)));
    notes.push(("of the same version".to_owned(), json!(version(&page) == version(&rest))));
    note(notes, "a token that is none", &server.get(&format!("{SECRETS}?limit=2&continue=x")).await);
    pick(notes, "the list's head", &page, &["/kind", "/apiVersion", "/items/0/kind", "/items/0/apiVersion"]);
    for (what, path, form) in [
        ("a list's metadata", format!("{SECRETS}?limit=2"), "PartialObjectMetadataList"),
        ("an object's metadata", format!("{SECRETS}/l1"), "PartialObjectMetadata"),
    ] {
        let accept = format!("application/json;as={form};g=meta.k8s.io;v=v1");
        let answer = (200, serde_json::from_slice(&server.bytes(&path, &accept).await).unwrap());
        let pointers = ["/kind", "/apiVersion", "/metadata/remainingItemCount", "/data", "/metadata/labels"];
        let of_items = ["/items/0/kind", "/items/0/apiVersion", "/items/0/metadata/labels", "/items/0/data"];
        pick(notes, what, &answer, &[&pointers[..], &of_items].concat());
    }
    let nowhere = server.get("/api/v1/namespaces/nowhere/secrets").await;
    notes.push(("a list of a namespace that is not there".to_owned(), names(&nowhere)));
    let nowhere = server.post("/api/v1/namespaces/nowhere/secrets", &mk_secret("x", "Opaque", "MQ==")).await;
    note(notes, "an object in a namespace that is not there", &nowhere);
}

async fn watches(server: &Server, notes: &mut Notes) {
    let list = server.get(SECRETS).await;
    let from = version(&list).to_owned();
    server.post(SECRETS, &mk_secret("w1", "Opaque", "MQ==")).await;
    server.merge(&format!("{SECRETS}/w1"), &json!({ "data": { "b": "Mg==" } })).await;
    server.merge(&format!("{SECRETS}/w1"), &json!({ "metadata": { "labels": { "which": "other" } } })).await;
    server.delete(&format!("{SECRETS}/w1"), &json!({})).await;
    let outline = |events: Vec<Value>| -> Value {
        let one = |event: &Value| {
            let object = &event["object"];
            json!([
                event["type"],
                object["kind"],
                object["metadata"]["name"],
                object["data"],
                object["code"],
                object["reason"]
            ])
        };
        events.iter().map(one).collect()
    };
    let all = format!("{SECRETS}?watch=true&timeoutSeconds=30&resourceVersion={from}");
    notes.push(("a watch from a version".to_owned(), outline(server.events(&all, 4).await)));
    let labelled = format!("{all}&labelSelector=which%3Dw1");
    notes.push(("a watch with a selector".to_owned(), outline(server.events(&labelled, 3).await)));
    let deleted = server.events(&all, 4).await.pop().unwrap();
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let end = number(&deleted["object"]["metadata"]["resourceVersion"]);
    notes.push(("a deletion's version is that of the end".to_owned(), json!(end > from.parse::<u64>().unwrap() + 2)));
    let initial = format!(
        "{SECRETS}?watch=true&timeoutSeconds=30&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=which%3Dl1"
    );
    let initial = server.events(&initial, 2).await;
    let ends = &initial[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
    notes.push((
        "a watch that begins with what is there".to_owned(),
        json!([initial[0]["type"], initial[1]["type"], ends]),
    ));
}

async fn applied(server: &Server, notes: &mut Notes) {
    let apply = async |by: &str, metadata: Value, data: Value| {
        let mut object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data });
        object["metadata"]["name"] = json!("applied");
        let path = format!("{SECRETS}/applied?fieldManager={by}");
        server.send(Method::PATCH, &path, "application/apply-patch+yaml", &object.to_string()).await
    };
    let labels = json!({ "labels": { "x": "1", "y": "2" } });
    note(notes, "applied", &apply("one", labels, json!({ "a": "MQ==", "b": "Mg==" })).await);
    let fewer = json!({ "labels": { "x": "1" } });
    note(notes, "what is no longer applied goes", &apply("one", fewer, json!({ "a": "MQ==" })).await);
    note(notes, "another manager's beside it", &apply("two", json!({}), json!({ "c": "Mw==" })).await);
    note(notes, "both apply the same", &apply("two", json!({}), json!({ "a": "MQ==", "c": "Mw==" })).await);
    note(notes, "it stays as long as one does", &apply("one", json!({}), json!({})).await);
    note(notes, "another value of another's", &apply("one", json!({}), json!({ "a": "OQ==" })).await);
    note(notes, "taken over", &apply("one&force=true", json!({}), json!({ "a": "OQ==" })).await);
    note(notes, "and no longer the other's", &apply("two", json!({}), json!({ "c": "Mw==" })).await);
    note(notes, "given up", &apply("one", json!({}), json!({})).await);
}

async fn leases(server: &Server, notes: &mut Notes) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "lock" },
        "spec": { "holderIdentity": "a", "renewTime": "2026-11-23T20:21:00.000000Z", "leaseDurationSeconds": 15 },
    });
    let created = server.post(LEASES, &lease).await;
    note(notes, "a new Lease", &created);
    let lock = format!("{LEASES}/lock");
    let taken = json!({ "metadata": { "resourceVersion": version(&created) }, "spec": { "holderIdentity": "b" } });
    note(notes, "taken on the version that was read", &server.merge(&lock, &taken).await);
    note(notes, "taken on an older version", &server.merge(&lock, &taken).await);
    note(
        notes,
        "given back",
        &server.merge(&lock, &json!({ "spec": { "holderIdentity": null, "renewTime": null } })).await,
    );
    note(notes, "held for no time", &server.merge(&lock, &json!({ "spec": { "leaseDurationSeconds": 0 } })).await);
}

fn mk_workload(kind: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": "w" },
        "spec": {
            "replicas": 3, "serviceName": if kind == "StatefulSet" { json!("w") } else { Value::Null },
            "selector": { "matchLabels": { "app": "w" } },
            "template": { "metadata": { "labels": { "app": "w" } }, "spec": { "containers": [{ "name": "main", "image": "x:1" }] } },
        },
    })
}

async fn workloads(server: &Server, notes: &mut Notes) {
    for (path, kind) in [(DEPLOYMENTS, "Deployment"), (SETS, "StatefulSet")] {
        let what = |words: &str| format!("{kind}: {words}");
        let at = format!("{path}/w");
        let created = server.post(path, &mk_workload(kind)).await;
        pick(notes, &what("created"), &created, &["/metadata/generation", "/spec/replicas", "/kind", "/apiVersion"]);
        let annotated = json!({ "metadata": { "annotations": { "a": "b" } } });
        let picked = ["/metadata/generation", "/metadata/annotations"];
        pick(notes, &what("its own annotations"), &server.merge(&at, &annotated).await, &picked);
        let template = json!({ "spec": { "template": annotated } });
        let picked = ["/metadata/generation", "/spec/template/metadata/annotations"];
        pick(notes, &what("its template's annotations"), &server.merge(&at, &template).await, &picked);
        pick(notes, &what("the same again"), &server.merge(&at, &template).await, &picked);
        let other = json!({ "spec": { "selector": { "matchLabels": { "app": "other" } } } });
        note(notes, &what("another selector"), &server.merge(&at, &other).await);
        let status = json!({ "status": { "observedGeneration": 7 } });
        pick(
            notes,
            &what("a status, by the object"),
            &server.merge(&at, &status).await,
            &["/status/observedGeneration"],
        );
    }
    let set = format!("{SETS}/w");
    let strategy = ["/spec/updateStrategy", "/metadata/generation"];
    pick(notes, "the strategy that is filled in", &server.get(&set).await, &strategy);
    let stepped =
        json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 3 } } } });
    pick(notes, "a partition", &server.merge(&set, &stepped).await, &strategy);
    let stepped = json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": 0 } } } });
    pick(notes, "and back", &server.merge(&set, &stepped).await, &strategy);
    let on_delete = json!({ "spec": { "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } } });
    pick(notes, "on delete", &server.merge(&set, &on_delete).await, &strategy);
}

/// Directives of a strategic merge.
async fn directives(server: &Server, notes: &mut Notes) {
    let at = format!("{DEPLOYMENTS}/w");
    let strategic = async |patch: Value| {
        server.send(Method::PATCH, &at, "application/strategic-merge-patch+json", &patch.to_string()).await
    };
    let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    assert_eq!(server.merge(&at, &json!({ "spec": { "strategy": rolling } })).await.0, 200);
    let recreate = json!({ "$retainKeys": ["type"], "type": "Recreate" });
    let retained = strategic(json!({ "spec": { "strategy": recreate } })).await;
    pick(notes, "keys that are retained", &retained, &["/spec/strategy"]);
    let deleted = strategic(json!({ "metadata": { "annotations": { "$patch": "delete" } } })).await;
    notes.push(("a map that is deleted".to_owned(), deleted.1["metadata"]["annotations"]["a"].clone()));
    let gone = json!({ "spec": { "template": { "metadata": { "annotations": { "$patch": "delete" } } } } });
    pick(notes, "a map below that is deleted", &strategic(gone).await, &["/spec/template/metadata/annotations"]);
}

fn mk_definition() -> Value {
    let definition = std::process::Command::new(env!("CARGO_BIN_EXE_meshcert")).arg("crd").output().unwrap().stdout;
    serde_saphyr::from_str(&String::from_utf8(definition).unwrap()).unwrap()
}

fn mk_renewal() -> Value {
    json!({ "apiVersion": "meshcert.dev/v1alpha1", "kind": "CertificateRenewal", "metadata": { "name": "r" }, "spec": { "meshId": "m" } })
}

/// Creates an object as soon as that can be: a kind is served, and gone, a while after its definition.
async fn created(server: &Server, path: &str, object: &Value) -> Answer {
    let start = std::time::Instant::now();
    loop {
        let answer = server.post(path, object).await;
        if answer.0 == 201 {
            return answer;
        }
        assert!(start.elapsed().as_secs() < 30, "{path}: {answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn renewals(server: &Server, notes: &mut Notes) {
    // The embedded API knows it already.
    assert!([201, 409].contains(&server.post(DEFINITIONS, &mk_definition()).await.0));
    let one = mk_renewal();
    note(notes, "a renewal", &created(server, RENEWALS, &one).await);
    pick(notes, "the list's items", &server.get(RENEWALS).await, &["/kind", "/items/0/kind", "/items/0/apiVersion"]);
    for path in [RENEWALS, DEPLOYMENTS] {
        let chosen = server.get(&format!("{path}?fieldSelector=spec.paused%3Dtrue")).await;
        notes.push((format!("a list by a field that none is chosen by, {path}"), names(&chosen)));
    }
    let at = format!("{RENEWALS}/r");
    let with_status = json!({ "metadata": { "annotations": { "a": "b" } }, "status": { "phase": "Failed" } });
    note(notes, "a status, by the object", &server.merge(&at, &with_status).await);
    let status_at = format!("{at}/status");
    let mut value = server.get(&at).await.1;
    value["status"] = json!({ "phase": "Pending", "attempt": 1 });
    value["spec"]["meshId"] = json!("other");
    note(notes, "a status, by its path", &server.put(&status_at, &value).await);
    note(notes, "on an older version", &server.put(&status_at, &value).await);
    note(notes, "what came of both", &server.get(&at).await);
    note(notes, "a spec", &server.merge(&at, &json!({ "spec": { "force": true } })).await);
    note(notes, "the same spec", &server.merge(&at, &json!({ "spec": { "force": true } })).await);
    note(notes, "a field that nobody knows", &server.merge(&at, &json!({ "spec": { "colour": "red" } })).await);
    note(notes, "a mesh id that is none", &server.merge(&at, &json!({ "spec": { "meshId": "No" } })).await);
    note(
        notes,
        "a digest that is none",
        &server.merge(&at, &json!({ "spec": { "approval": { "planDigest": "x" } } })).await,
    );
    note(notes, "a trigger that is none", &server.merge(&at, &json!({ "spec": { "trigger": "Whim" } })).await);
    note(notes, "a number that is text", &server.merge(&status_at, &json!({ "status": { "attempt": "1" } })).await);
    let mut nameless = one.clone();
    nameless["metadata"] = json!({ "name": "without" });
    nameless["spec"] = json!({});
    note(notes, "a renewal of no mesh", &server.post(RENEWALS, &nameless).await);
    let strategic = server.send(Method::PATCH, &at, "application/strategic-merge-patch+json", "{}").await;
    note(notes, "a strategic patch of a custom object", &strategic);

    note(
        notes,
        "a finalizer",
        &server.merge(&at, &json!({ "metadata": { "finalizers": ["meshcert.dev/commit"] } })).await,
    );
    note(notes, "deleted with a finalizer", &server.delete(&at, &json!({})).await);
    let created = server.post(RENEWALS, &one).await;
    note(notes, "the same name while it is being deleted", &created);
    let more = json!({ "metadata": { "finalizers": ["meshcert.dev/commit", "example.org/x"] } });
    note(notes, "another finalizer while it is being deleted", &server.merge(&at, &more).await);
    let last = server.merge(&at, &json!({ "metadata": { "finalizers": [] } })).await;
    notes.push(("the finalizer goes".to_owned(), json!(last.0)));
    note(notes, "and so does the object", &server.get(&at).await);
}

async fn mistakes(server: &Server, notes: &mut Notes) {
    note(notes, "no JSON", &server.send(Method::POST, SECRETS, "application/json", "{").await);
    note(
        notes,
        "a patch of no known kind",
        &server.send(Method::PATCH, &format!("{SECRETS}/l1"), "text/plain", "{}").await,
    );
    note(
        notes,
        "a patch that is no JSON",
        &server.send(Method::PATCH, &format!("{SECRETS}/l1"), "application/merge-patch+json", "{").await,
    );
    note(
        notes,
        "another kind than the path's",
        &server.post(SECRETS, &json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" } })).await,
    );
    note(notes, "a name that is none", &server.post(SECRETS, &mk_secret("No_Name", "Opaque", "MQ==")).await);
    let elsewhere =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "x", "namespace": "default" } });
    note(notes, "another namespace than the path's", &server.post(SECRETS, &elsewhere).await);
    let renamed = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "l2" } });
    note(notes, "another name than the path's", &server.put(&format!("{SECRETS}/l1"), &renamed).await);
    let (code, _) = server.get("/apis/nobody.example.org/v1/things").await;
    notes.push(("a group that nobody serves".to_owned(), json!(code)));
}

async fn the_end_of_a_kind(server: &Server, notes: &mut Notes) {
    created(server, RENEWALS, &mk_renewal()).await;
    let list = server.get(RENEWALS).await;
    let path = format!("{RENEWALS}?watch=true&timeoutSeconds=120&resourceVersion={}", version(&list));
    let watch = server.open(&path).await;
    let definition = format!("{DEFINITIONS}/certificaterenewals.meshcert.dev");
    assert_eq!(server.delete(&definition, &json!({})).await.0, 200);
    let events = Server::read(watch, usize::MAX).await;
    let all_deleted = events.iter().all(|event| event["type"] == "DELETED");
    let count = list.1["items"].as_array().unwrap().len();
    notes.push((
        "a watch ends with its kind, and tells of each object".to_owned(),
        json!([all_deleted, events.len() == count]),
    ));
    notes.push(("a kind that is gone".to_owned(), json!(server.get(RENEWALS).await.0)));
    created(server, DEFINITIONS, &mk_definition()).await;
    created(server, RENEWALS, &mk_renewal()).await;
    notes.push(("of a kind that is made anew, what is new".to_owned(), names(&server.get(RENEWALS).await)));
    let events = server.events(&path, 1).await;
    notes.push(("and a watch from before".to_owned(), json!([events[0]["type"], events[0]["object"]["code"]])));
}
