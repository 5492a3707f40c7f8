//! What the runbooks and pages tell a person to type is typed: every `sh` block, every `console` block, and every Job and renewal, against the embedded cluster.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use meshcert::clock::SystemClock;
use meshcert::ports::Clock;
use regex::Regex;
use serde_json::json;
use support::daemon::Demo;
use support::tools;
use tempfile::TempDir;

/// What may fail here, and why.
const MAY_FAIL: [(&str, &str); 12] = [
    ("meshcert status", "its exit code tells that a mesh ends soon"),
    ("meshcert check --expiring-within", "so does this one's"),
    ("meshcert renew", "the demo asks for approval, and whoever waits is told so"),
    ("grep meshcert", "meshcert is no pod here"),
    ("kubectl auth can-i --list", "the embedded cluster knows no accounts"),
    ("kubectl -n meshcert port-forward", "meshcert is no pod here"),
    ("grep ACCOUNT", "nor what is bound to them"),
    ("kubectl get certificate", "cert-manager is not there"),
    ("/api/v1/events", "the stream goes on until the test cuts it off"),
    ("mesh_api", "kubeadm gave the admin an organization that nobody has bound, as the runbook warns"),
    ("kubectl --kubeconfig", "the same"),
    (
        "kill $!",
        "the embedded API forwards no port for kubectl, so that it has ended already; the pod's address is asked instead",
    ),
];

/// Pages whose commands are run elsewhere, or nowhere, and why.
const ELSEWHERE: [(&str, &str); 2] = [
    ("E2E.md", "installs Debian packages; e2e/run.sh runs on what they are"),
    ("INSTALL.md", "tests/chart_install.rs runs them on a real API server with the real Helm"),
];

/// A fenced block: its language and its text.
struct Block {
    language: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let in_folder = |folder: &str| std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let is_run = |page: &PathBuf| {
        let name = page.file_name().unwrap().to_str().unwrap();
        name.ends_with(".md") && !ELSEWHERE.iter().any(|(elsewhere, _)| *elsewhere == name)
    };
    let mut pages: Vec<PathBuf> = in_folder("docs/runbooks").chain(in_folder("docs")).filter(is_run).collect();
    pages.push(root().join("README.md"));
    pages.retain(|page| blocks(page).iter().any(|block| script(block).is_some()));
    pages.sort();
    pages
}

/// The blocks of a page, without the indentation that a list gives them.
fn blocks(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|line| line.trim() != "```");
        let text = inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        found.push(Block { language: language.to_owned(), text });
    }
    found
}

/// What of a block is typed.
fn script(Block { language, text }: &Block) -> Option<String> {
    match language.as_str() {
        "sh" => Some(text.clone()).filter(|text| !text.starts_with("make ")),
        "console" => {
            Some(text.lines().filter_map(|line| line.strip_prefix("$ ")).map(|line| format!("{line}\n")).collect())
        }
        "yaml" if text.contains("kind: Job") || text.contains("kind: CertificateRenewal") => {
            Some(format!("kubectl create -f - <<'MANIFEST'\n{text}MANIFEST\n"))
        }
        _ => None,
    }
}

/// The placeholders of a page, filled for one mesh.
fn filled(text: &str, demo: &Demo, mesh: &str) -> String {
    let of_mesh = |kind: &str, name: &str| {
        let all = demo.kubectl(&["-n", "istio-system", "get", kind, "-o", "name"]);
        let names = all.lines().filter_map(|line| line.split('/').nth(1));
        // The Job's pod is called like those of the API that it renews.
        let names = names.filter(|found| found.starts_with(name) && !found.contains("-certs-renew-"));
        names.map(str::to_owned).next().unwrap_or_else(|| panic!("{all}"))
    };
    // The embedded cluster has no EndpointSlices.
    let mut text = meshcert::runbook::filled(text, mesh, "istio-system").replace(",endpointslices", "");
    // The port that a page names may be taken here, and what serves or tells without an end is ended.
    text = text.replace("localhost:9794", &demo.address).replace("curl -sN", "curl -sN --max-time 1");
    text = text.replace(" --listen 127.0.0.1:9794", "").replace("meshcert serve", "until_it_listens meshcert serve");
    if text.contains("DIGEST") {
        text = text.replace("DIGEST", &waiting_digest(demo, mesh));
    }
    if text.contains("NAME") {
        text = text.replace("NAME", &of_mesh("crn", &format!("{mesh}-")));
    }
    if text.contains("localhost:16443") || text.contains("POD") {
        let pod = of_mesh("pods", &format!("{mesh}-hosted-apiserver-"));
        let address = demo.kubectl(&["-n", "istio-system", "get", "pod", &pod, "-o", "jsonpath={.status.podIP}"]);
        text = text.replace("localhost:16443", &format!("{address}:6443")).replace("POD", &pod);
    }
    if text.contains("BACKUP") {
        // There is one after a renewal, and it is needed once the Secret is gone.
        let approve = format!("meshcert approve {mesh} --digest {} --wait", waiting_digest(demo, mesh));
        let (failed, said) = run(&approve, demo, demo.folder.path());
        assert!(failed.is_empty(), "{said}");
        demo.kubectl(&["-n", "istio-system", "delete", "secret", &format!("{mesh}-apiserver-admin-kubeconfig")]);
        let backup = demo.kubectl(&["-n", "istio-system", "get", "secrets", "-o", "name"]);
        let backup = backup.lines().find(|name| name.contains(mesh) && name.ends_with("-backup-admin"));
        text = text.replace("BACKUP", backup.unwrap().trim_start_matches("secret/"));
    }
    text
}

/// That of the plan which waits.
fn waiting_digest(demo: &Demo, mesh: &str) -> String {
    let digest = format!("jsonpath={{.items[?(@.spec.meshId==\"{mesh}\")].status.plan.digest}}");
    demo.kubectl(&["-n", "istio-system", "get", "crn", "-o", &digest])
}

/// What is run before each script.
const PRELUDE: &str = r#"
trap 'echo "FAILED $? $BASH_COMMAND" >&2' ERR
until_it_listens() {
  "$@" --listen 127.0.0.1:0 > serve.log 2>&1 &
  until grep -q 'meshcert listens' serve.log; do kill -0 $! || return 1; sleep 0.1; done
  kill $!; wait $!
}
"#;

/// Runs a script to its end; each command that failed, with its exit code, and what was said.
fn run(script: &str, demo: &Demo, place: &Path) -> (Vec<String>, String) {
    let folders = [Path::new(env!("CARGO_BIN_EXE_meshcert")).parent().unwrap().to_owned()];
    let kubectl = tools::kubectl().parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap();
    let path = std::env::join_paths(folders.into_iter().chain([kubectl]).chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("{PRELUDE}{script}")])
        .current_dir(place)
        .env("PATH", path)
        .env("KUBECONFIG", &demo.kubeconfig)
        .env("KUBECACHEDIR", demo.folder.path().join("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (said.lines().filter_map(|line| line.strip_prefix("FAILED ")).map(str::to_owned).collect(), said)
}

/// Waits until a plan of every mesh awaits approval.
fn until_planned(demo: &Demo, meshes: usize) {
    let start = Instant::now();
    loop {
        let phases = demo.kubectl(&["-n", "istio-system", "get", "crn", "-o", "jsonpath={.items[*].status.phase}"]);
        if phases.split(' ').filter(|phase| *phase == "AwaitingApproval").count() == meshes {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{phases}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// kubectl restarts no workload twice within a second of the clock, and one is shared by all meshes.
fn until_the_next_second() {
    let present = SystemClock.now();
    while SystemClock.now() == present {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_command_of_runbooks_and_alerts_says_in_which_namespace() {
    let tool = Regex::new("(?:kubectl|helm|meshcert (?:plan|renew|approve|history|rollback|runbook|status)) [^`|;)]*")
        .unwrap();
    let named =
        Regex::new(r"-n ([a-z]|NAMESPACE|\{\{)|--all-namespaces| -A\b|kubectl config |get crd |apply -f").unwrap();
    let typed = Regex::new("`([^`\n]+ [^`\n]+)`").unwrap();
    let mut unnamed = Vec::new();
    let runbooks = std::fs::read_dir(root().join("docs/runbooks")).unwrap().map(|entry| entry.unwrap().path());
    // What alerts and the chart say after an installation is typed too.
    let others = ["alerts/meshcert.rules.yaml", "deploy/chart/templates/NOTES.txt"].map(|path| root().join(path));
    for page in runbooks.chain(others) {
        let text = std::fs::read_to_string(&page).unwrap();
        let spans = typed.captures_iter(&text).map(|found| found[1].to_owned());
        let lines = blocks(&page).into_iter().filter(|block| block.language == "sh");
        let lines = lines.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        for line in spans.chain(lines) {
            let commands = tool.find_iter(&line).map(|found| found.as_str().to_owned());
            unnamed.extend(commands.filter(|command| !named.is_match(command)).map(|one| (page.clone(), one)));
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:#?}");
}

/// Behind a slash kubectl takes the rest for the name of an object: a question about `pods/portforward` is one about a pod of that name.
#[test]
fn questions_about_rights_name_a_subresource_as_kubectl_does() {
    let question = Regex::new(r"kubectl auth can-i ([a-z]+ )?([^\s`]+)").unwrap();
    let mut asked = 0;
    let folders = ["docs", "docs/runbooks"].map(|folder| std::fs::read_dir(root().join(folder)).unwrap());
    for page in folders.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|page| page.is_file()) {
        for found in question.captures_iter(&std::fs::read_to_string(&page).unwrap()) {
            assert!(!found[2].contains('/'), "{}: {}", page.display(), &found[0]);
            asked += 1;
        }
    }
    assert!(asked > 3, "{asked}");
}

#[test]
fn the_proof_by_hand_logs_in_and_makes_an_object() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let blocks = blocks(&root().join("docs/runbooks/MspiderHostedKubeAPICertExpiration.md"));
    let proof = filled(&blocks.last().unwrap().text, &demo, "healthy-1");
    assert!(proof.contains("mesh_api delete configmap meshcert-canary"), "{proof}");
    let (failed, said) = run(&proof, &demo, demo.folder.path());
    assert!(failed.iter().all(|command| command.ends_with("kill $!")), "{said}");
}

#[test]
fn every_command_of_the_runbooks_runs() {
    let pages = pages();
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", &pages.len().to_string(), "--mode", "approve"]);
    until_planned(&demo, pages.len());
    let place = TempDir::new().unwrap();
    for name in ["alerts", "dashboards"] {
        symlink(root().join(name), place.path().join(name)).unwrap();
    }
    let pair = rcgen::generate_simple_self_signed(["meshcert.example.org".to_owned()]).unwrap();
    std::fs::write(place.path().join("CERT_FILE"), pair.cert.pem()).unwrap();
    std::fs::write(place.path().join("KEY_FILE"), pair.signing_key.serialize_pem()).unwrap();
    let config = json!({
        "clusters": [{ "name": "demo", "kubeconfig": demo.kubeconfig }],
        "webhook": { "bearerTokenFile": place.path().join("token") },
    });
    // JSON is YAML.
    std::fs::write(place.path().join("meshcert.yaml"), config.to_string()).unwrap();
    std::fs::write(place.path().join("token"), "a token of this test").unwrap();
    let (mut wrong, mut excused, mut ran) = (Vec::new(), BTreeSet::new(), 0);
    for (number, page) in pages.iter().enumerate() {
        for text in blocks(page).iter().filter_map(script) {
            let script = filled(&text, &demo, &format!("expiring-{}", number + 1));
            if script.contains("rollout restart") {
                until_the_next_second();
            }
            let (failed, said) = run(&script, &demo, place.path());
            ran += 1;
            for command in failed {
                match MAY_FAIL.iter().find(|(part, _)| command.contains(part)) {
                    Some((part, _)) => drop(excused.insert(*part)),
                    None => wrong.push(format!("{}: {command}\n{said}", page.display())),
                }
            }
            assert!(!said.contains("command not found"), "{said}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran > 20, "{ran}");
    let unused: Vec<&str> = MAY_FAIL.iter().map(|(part, _)| *part).filter(|part| !excused.contains(part)).collect();
    assert!(unused.is_empty(), "nothing needs these excuses: {unused:?}");
}
