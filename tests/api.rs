//! `/api/v1` on `meshcert demo`: docs/openapi.yaml says what it answers, events tell what changes.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::daemon::Demo;
use support::http::{get, listen};

const LIST: &str = "/api/v1/renewals";

fn description() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// Holds an answer against what the description says of a path.
fn check(description: &Value, path: &str, answer: &Value) {
    let schema = &description["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    conforms(description, schema, answer);
}

fn conforms(description: &Value, schema: &Value, answer: &Value) {
    assert!(schema.is_object(), "there is a schema");
    let whole = json!({ "allOf": [schema], "components": description["components"] });
    let validator = jsonschema::options().should_validate_formats(true).build(&whole).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

fn json_at(demo: &Demo, path: &str) -> Value {
    let answer = get(&demo.address, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}

/// Asks until the answer is as wished.
fn wait(demo: &Demo, path: &str, wished: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let answer = json_at(demo, path);
        if wished(&answer) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{path} has not become what is wished for: {}", get(&demo.address, path).body);
}

fn phases(answer: &Value) -> Vec<&str> {
    answer["renewals"].as_array().unwrap().iter().map(|one| one["phase"].as_str().unwrap()).collect()
}

#[test]
fn every_answer_is_as_described_and_every_path_is_there() {
    let demo = Demo::start(&["--mode", "approve", "--scenario", "mixed"]);
    let description = description();
    let paths: BTreeSet<&str> = description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let one = "/api/v1/renewals/{cluster}/{namespace}/{name}";
    let brief = "/api/v1/meshes/brief";
    let known = ["/api/v1/events", "/api/v1/meshes", brief, "/api/v1/openapi.yaml", LIST, one];
    assert_eq!(paths, BTreeSet::from(known));

    let waiting = wait(&demo, LIST, |list| phases(list) == ["AwaitingApproval"; 3]);
    check(&description, LIST, &waiting);
    check(&description, "/api/v1/meshes", &json_at(&demo, "/api/v1/meshes"));
    let briefly = json_at(&demo, brief);
    check(&description, brief, &briefly);
    assert_eq!((briefly["meshes"].as_array().unwrap().len(), &briefly["complete"]), (6, &Value::Bool(true)));
    let first = &waiting["renewals"][0];
    assert!(first["plan"]["leaves"].as_array().unwrap().len() >= 8 && !first["steps"].as_array().unwrap().is_empty());
    let path = format!("{LIST}/demo/istio-system/{}", first["name"].as_str().unwrap());
    check(&description, one, &json_at(&demo, &path));
    let runbook = get(&demo.address, first["runbook"].as_str().unwrap()).body.replace("<wbr>", "");
    assert!(runbook.contains("<h1>MeshcertRenewalAwaitingApproval</h1>"));
    assert_eq!(get(&demo.address, "/api/v1/openapi.yaml").body, include_str!("../docs/openapi.yaml"));

    // Chosen, cut and turned over.
    let about = |query: &str| json_at(&demo, &format!("{LIST}?{query}"));
    let mesh = about("mesh=hosted-critical");
    assert_eq!((&mesh["total"], &mesh["renewals"][0]["mesh"]), (&json!(1), &json!("hosted-critical")));
    assert_eq!(about("cluster=elsewhere")["total"], 0);
    let page = about("limit=1&offset=1");
    assert_eq!(
        (&page["total"], phases(&page).len(), &page["renewals"][0]["name"]),
        (&json!(3), 1, &waiting["renewals"][1]["name"])
    );
    for (path, status, words) in [
        (format!("{LIST}?limit=501"), 400, "limit is at most 500"),
        (format!("{LIST}?limit=many"), 400, "limit"),
        (format!("{LIST}?meshes=a"), 400, "unknown field"),
        (format!("{LIST}/demo/istio-system/nothing"), 404, "no such renewal is known"),
    ] {
        let answer = get(&demo.address, &path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.head.contains("content-type: text/plain") && answer.body.contains(words), "{}", answer.body);
    }

    // The command does what it says, by the real kubectl.
    let command = mesh["renewals"][0]["approveCommand"].as_str().unwrap();
    let kubectl = support::tools::kubectl();
    let path = std::env::join_paths(
        kubectl
            .parent()
            .map(std::path::Path::to_owned)
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let output = Command::new("bash")
        .args(["-c", command])
        .env("PATH", path.unwrap())
        .env("KUBECONFIG", &demo.kubeconfig)
        .env("KUBECACHEDIR", demo.folder.path().join("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ended = wait(&demo, &format!("{LIST}?mesh=hosted-critical"), |list| phases(list) == ["Succeeded"]);
    check(&description, LIST, &ended);
    let ended = &ended["renewals"][0];
    assert!(ended["approveCommand"].is_null() && ended["runbook"].is_null() && ended["endsAt"].is_string());
}

#[test]
fn a_renewal_that_cannot_be_read_is_named_with_what_is_wrong() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    demo.create_unreadable("odd", "healthy-1");
    let list = wait(&demo, LIST, |list| list["sources"][0]["unreadable"] != json!([]));
    check(&description(), LIST, &list);
    let [one] = &list["sources"][0]["unreadable"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&one["namespace"], &one["name"]), (&json!("istio-system"), &json!("odd")));
    assert!(one["message"].as_str().unwrap().contains("8589934592"), "{one}");
}

#[test]
fn events_tell_of_each_renewal_and_mesh_that_changes() {
    let demo = Demo::start(&["--mode", "auto", "--scenario", "expiring", "--meshes", "1"]);
    let description = description();
    let schemas =
        &description["paths"]["/api/v1/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]["schema"];
    let mut heard = BTreeSet::new();
    let mut kind = String::new();
    for line in listen(&demo.address, "/api/v1/events") {
        if let Some(name) = line.strip_prefix("event: ") {
            kind = name.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).unwrap();
            conforms(&description, schemas, &json!({ kind.as_str(): data }));
            heard.insert(format!(
                "{kind} {} {}",
                data["id"].as_str().unwrap_or(""),
                data["phase"].as_str().unwrap_or("")
            ));
            if data["phase"] == "Succeeded" {
                break;
            }
        }
    }
    // Phases that pass in a moment may be told of together.
    for event in ["mesh expiring-1 ", "renewal  Restarting", "renewal  Succeeded"] {
        assert!(heard.contains(event), "{event} in {heard:?}");
    }
}

#[test]
fn open_streams_end_at_shutdown_and_do_not_hold_it_up() {
    let mut demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let lines = listen(&demo.address, "/api/v1/events");
    let id = demo.process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    // It ends with the end of the body, not by being cut off, which would be an error.
    assert_eq!(lines.last().as_deref(), Some(""));
    assert!(demo.process.0.wait().unwrap().success());
}
