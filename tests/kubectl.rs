//! The real kubectl on the embedded Kubernetes API.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::daemon::{Demo, Process};
use support::tools;

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn mk_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: '{value}'}}\n")
}

#[test]
fn kubectl_reads_writes_and_selects() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "2"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        demo.kubectl(&[arguments, &["-o", "name"]].concat()).lines().map(str::to_owned).collect()
    };

    assert!(demo.kubectl(&["get", "secrets"]).starts_with("NAME"), "a table of the server");
    assert_eq!(names(&["get", "secrets", "--field-selector", "type=kubernetes.io/tls", "-n", "shop"]).len(), 2);
    assert_eq!(names(&["get", "secrets", "-A", "--chunk-size=2"]).len(), names(&["get", "secrets", "-A"]).len());

    demo.kubectl_with(&mk_map("one", "1"), &["create"]);
    let again = demo.try_kubectl_with(&mk_map("one", "1"), &["create"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    demo.kubectl(&["label", "configmap", "one", "colour=red"]);
    demo.kubectl(&["annotate", "configmap", "one", "note=x"]);
    assert_eq!(names(&["get", "configmaps", "-l", "colour in (red, blue)"]), ["configmap/one"]);
    assert_eq!(names(&["get", "configmaps", "-l", "colour!=red"]).len(), 0);
    demo.kubectl(&[
        "patch",
        "configmap",
        "one",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/data/a","value":"2"}]"#,
    ]);
    demo.kubectl(&["patch", "configmap", "one", "--type=merge", "-p", r#"{"data":{"b":"3"}}"#]);
    assert_eq!(demo.kubectl(&["get", "configmap", "one", "-o", "jsonpath={.data}"]), r#"{"a":"2","b":"3"}"#);
    demo.kubectl(&["delete", "configmap", "one", "--dry-run=server"]);
    demo.kubectl(&["delete", "configmap", "one"]);
    assert!(!demo.try_kubectl(&["get", "configmap", "one"]).status.success());
}

#[test]
fn kubectl_applies_on_the_client_and_on_the_server() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let data = || demo.kubectl(&["get", "configmap", "two", "-o", "jsonpath={.data.a}"]);
    for value in ["1", "2"] {
        demo.kubectl_with(&mk_map("two", value), &["apply"]);
        assert_eq!(data(), value);
    }
    demo.kubectl_with(&mk_map("two", "3"), &["apply", "--dry-run=server"]);
    assert_eq!(data(), "2", "a dry run changes nothing");
    demo.kubectl_with(&mk_map("two", "4"), &["apply", "--server-side", "--force-conflicts"]);
    assert_eq!(data(), "4");

    demo.kubectl_with(WIDGETS, &["apply"]);
    demo.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.org", "--timeout=20s"]);
    let widget = "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: large}\n";
    demo.kubectl_with(widget, &["create"]);
    assert!(demo.kubectl(&["get", "wd"]).contains("large"), "short names and printer columns");
    demo.kubectl(&["patch", "wd", "w", "--subresource=status", "--type=merge", "-p", r#"{"status":{"phase":"Done"}}"#]);
    demo.kubectl(&["wait", "--for=jsonpath={.status.phase}=Done", "wd/w", "--timeout=20s"]);
}

#[test]
fn kubectl_rolls_workloads_out() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let pods = |app: &str| {
        demo.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "jsonpath={.items[*].metadata.uid}"])
    };
    for workload in ["deployment/healthy-1-hosted-apiserver", "statefulset/healthy-1-etcd"] {
        let app = workload.split('/').nth(1).unwrap();
        demo.kubectl(&["scale", workload, "--replicas=3"]);
        demo.kubectl(&["rollout", "status", workload, "--timeout=30s"]);
        let before = pods(app);
        assert_eq!(before.split(' ').count(), 3);
        demo.kubectl(&["rollout", "restart", workload]);
        demo.kubectl(&["rollout", "status", workload, "--timeout=30s"]);
        let after = pods(app);
        assert!(after.split(' ').all(|uid| !before.contains(uid)), "every pod is another: {before} {after}");
    }
    demo.kubectl(&["set", "image", "deployment/istiod-healthy-1-hosted", "main=missing:1"]);
    let stuck = demo.try_kubectl(&["rollout", "status", "deployment/istiod-healthy-1-hosted", "--timeout=2s"]);
    assert!(!stuck.status.success(), "an image that is not there halts the rollout");
    let states = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
    assert!(demo.kubectl(&["get", "pods", "-o", states]).contains("ImagePullBackOff"));

    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec: {template: {metadata: {labels: {job-name: once}}, spec: {restartPolicy: Never, containers: [{name: main, image: tool}]}}}\n";
    demo.kubectl_with(job, &["create"]);
    demo.kubectl(&["wait", "--for=condition=complete", "job/once", "--timeout=30s"]);
    demo.kubectl(&["delete", "job", "once"]);
    assert_eq!(demo.kubectl(&["get", "pods", "-l", "job-name=once", "-o", "name"]), "", "its pod goes with it");
    demo.kubectl_with(job, &["create"]);
    demo.kubectl(&["wait", "--for=condition=complete", "job/once", "--timeout=30s"]);
    demo.kubectl(&["delete", "job", "once", "--cascade=orphan"]);
    assert_ne!(demo.kubectl(&["get", "pods", "-l", "job-name=once", "-o", "name"]), "", "its pod stays");
}

#[test]
fn kubectl_watches() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let mut child = Command::new(tools::kubectl())
        .args([
            "get",
            "configmaps",
            "--watch",
            "--output-watch-events",
            "-o",
            "jsonpath={.type}{'\\n'}",
            "--kubeconfig",
        ])
        .arg(&demo.kubeconfig)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _watching = Process(child);
    demo.kubectl_with(&mk_map("seen", "1"), &["create"]);
    demo.kubectl(&["delete", "configmap", "seen"]);
    let events: Vec<String> = lines.take(2).map(Result::unwrap).collect();
    assert_eq!(events, ["ADDED", "DELETED"]);
}

#[test]
fn what_the_embedded_api_does_not_know_is_refused_in_words() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    for (arguments, words) in [
        (&["get", "ingresses"][..], "the server doesn't have a resource type"),
        (&["exec", "healthy-1-etcd-0", "--", "true"], "the embedded API has no subresource exec here"),
        (&["create", "configmap", "x"], "the embedded API takes JSON, not protobuf"),
    ] {
        let output = demo.try_kubectl(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
    for (manifest, words) in [
        (mk_map("Not_A_Name", "1"), "must be a lowercase RFC 1123 subdomain"),
        (mk_map("x, namespace: nowhere", "1"), "namespaces \"nowhere\" not found"),
    ] {
        let output = demo.try_kubectl_with(&manifest, &["create"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{manifest}: {error}");
    }
}
