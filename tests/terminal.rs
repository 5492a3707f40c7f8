//! The commands on a real terminal and in a pipe: colours, a table that follows what happens, progress, kubectl's plugin.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may panic")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::daemon::{Demo, Process};
use support::terminal::OnTerminal;
use support::tools;
use tempfile::TempDir;

const ESCAPE: char = '\u{1b}';

/// meshcert, without what the surroundings say about colours.
fn meshcert(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshcert"));
    command.args(arguments);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "MESHCERT_CONFIG"] {
        command.env_remove(name);
    }
    command
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs what a person would paste into a shell that knows of no cluster.
fn in_a_shell(command: &str) -> Output {
    let programs = [Path::new(env!("CARGO_BIN_EXE_meshcert")).to_owned(), tools::kubectl()];
    let folders = programs.iter().filter_map(|program| program.parent()).map(|folder| folder.display().to_string());
    let path = folders.chain(std::env::var("PATH")).collect::<Vec<_>>().join(":");
    Command::new("sh").args(["-c", command]).env("PATH", path).env("KUBECONFIG", "/nonexistent").output().unwrap()
}

/// Puts a mesh's Secrets into another namespace.
fn moved(demo: &Demo, mesh: &str, namespace: &str) {
    let there = serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    demo.kubectl_with(&there.to_string(), &["create"]);
    for end in ["kube-certs", "etcd-certs", "apiserver-admin-kubeconfig"] {
        let name = format!("{mesh}-{end}");
        let secret = demo.kubectl(&["-n", "istio-system", "get", "secret", &name, "-o", "json"]);
        let mut secret: serde_json::Value = serde_json::from_str(&secret).unwrap();
        secret["metadata"] = serde_json::json!({ "name": name, "namespace": namespace });
        demo.kubectl_with(&secret.to_string(), &["create"]);
        demo.kubectl(&["-n", "istio-system", "delete", "secret", &name]);
    }
}

fn without_colours(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A kubeconfig that leads to an address on which nobody listens any more.
fn of_nobody(folder: &TempDir) -> String {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "clusters": [{ "name": "silent", "cluster": { "server": format!("http://{gone}") } }],
        "users": [{ "name": "silent", "user": {} }],
        "contexts": [{ "name": "silent", "context": { "cluster": "silent", "user": "silent" } }],
    });
    let path = folder.path().join("silent").display().to_string();
    // JSON is YAML.
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path
}

/// A certificate that ended long ago.
fn ended(folder: &TempDir) -> String {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let path = folder.path().join("ended.pem");
    std::fs::write(&path, pem).unwrap();
    path.display().to_string()
}

#[test]
fn colours_come_on_a_terminal_and_where_they_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let file = ended(&folder);
    let plain = text(&meshcert(&["check", &file]).output().unwrap());
    assert!(plain.starts_with("SOURCE") && !plain.contains(ESCAPE), "{plain}");
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], bool);
    let in_a_pipe: [Case; 5] = [
        (&[], &[("CLICOLOR_FORCE", "1")], true),
        (&["--color", "always"], &[], true),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        (&[], &[("NO_COLOR", "1")], false),
    ];
    for (arguments, environment, coloured) in in_a_pipe {
        let mut command = meshcert(&["check", &file]);
        let shown = text(&command.args(arguments).envs(environment.iter().copied()).output().unwrap());
        assert_eq!(shown.contains(ESCAPE), coloured, "{arguments:?} {environment:?}");
        assert_eq!(without_colours(&shown), plain, "the same but for the colours");
    }
    let on_a_terminal: [Case; 4] = [
        (&[], &[], true),
        (&[], &[("NO_COLOR", "1")], false),
        (&["--color", "never"], &[], false),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
    ];
    for (arguments, environment, coloured) in on_a_terminal {
        let mut command = meshcert(&["check", &file]);
        command.args(arguments).envs(environment.iter().copied());
        let (shown, code) = OnTerminal::with_columns(200, &mut command).finish();
        assert_eq!(code, Some(4), "{shown}");
        assert_eq!(shown.contains(ESCAPE), coloured, "{arguments:?} {environment:?}");
        assert_eq!(without_colours(&shown), plain, "the same but for the colours");
    }
    let (narrow, code) = OnTerminal::with_columns(80, &mut meshcert(&["check", &file])).finish();
    let narrow = without_colours(&narrow);
    assert_eq!(code, Some(4), "{narrow}");
    assert!(narrow.lines().all(|line| line.len() <= 80), "{narrow}");
    assert!(narrow.contains("TIME LEFT") && !narrow.contains("ISSUER"), "{narrow}");
    let json = meshcert(&["check", "-o", "json", "--color", "always", &file]).output().unwrap();
    assert!(!text(&json).contains(ESCAPE), "what programs read has no colours");
}

#[test]
fn a_watched_table_follows_what_happens() {
    let demo = Demo::start(&["--scenario", "mixed", "--api-only"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let arguments = ["status", "--watch", "--kubeconfig", &kubeconfig];
    let mut terminal = OnTerminal::start(&mut meshcert(&arguments));
    let mut piped = Process(meshcert(&arguments).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(piped.0.stdout.take().unwrap()).lines().map(Result::unwrap);

    let first = terminal.read_until("hosted-healthy");
    assert!(first.contains("\u{1b}[2J") && first.contains("hosted-expired"), "{first}");
    let table: Vec<String> = lines.by_ref().take(7).collect();
    assert!(table[0].starts_with("CLUSTER") && table[1].contains("hosted-expired"), "{table:?}");

    let secrets = ["kube-certs", "etcd-certs", "apiserver-admin-kubeconfig"].map(|end| format!("hosted-expired-{end}"));
    demo.kubectl(&["-n", "istio-system", "delete", "secret", &secrets[0], &secrets[1], &secrets[2]]);
    // The mesh that was second is first now.
    let mut tables = lines.by_ref().skip_while(|line| !line.starts_with("CLUSTER")).skip(1);
    let mut first_row = tables.next().unwrap();
    while first_row.contains("hosted-expired") {
        first_row = lines.by_ref().skip_while(|line| !line.starts_with("CLUSTER")).nth(1).unwrap();
    }
    assert!(first_row.contains("hosted-critical"), "{first_row}");
    let again = terminal.read_until("\u{1b}[2J");
    assert!(again.contains("\u{1b}[2J"), "{again}");

    let refused = meshcert(&["status", "--watch", "-o", "json"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "a stream of documents is no document");
}

#[test]
fn each_scenario_shows_what_its_name_says() {
    let status = |scenario: &str| {
        let demo = Demo::start(&["--scenario", scenario, "--api-only"]);
        let kubeconfig = demo.kubeconfig.display().to_string();
        let output = meshcert(&["status", "-o", "json", "--kubeconfig", &kubeconfig]).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let meshes = answer["meshes"].as_array().unwrap().iter().map(|mesh| {
            let reasons = mesh["findings"].as_array().unwrap().iter().map(|found| found["reason"].as_str().unwrap());
            let reasons: BTreeSet<&str> = reasons.collect();
            let reasons: Vec<&str> = reasons.into_iter().collect();
            format!("{}: {}", mesh["id"].as_str().unwrap(), reasons.join(" "))
        });
        (output.status.code(), meshes.collect::<Vec<String>>())
    };
    let broken = [
        "secret-missing: secret_missing",
        "corrupt-block: invalid_certificate",
        "leaf-missing: certificate_missing",
        "unreadable-kubeconfig: invalid_kubeconfig",
        "wrong-ca: wrong_ca",
        "wrong-server: kubeconfig_wrong_server",
    ];
    assert_eq!(status("broken"), (Some(1), broken.map(str::to_owned).to_vec()));
    let expired = ["expired-1: expired", "expired-2: expired", "expired-3: expired"];
    assert_eq!(status("expired"), (Some(4), expired.map(str::to_owned).to_vec()));
}

#[test]
fn on_a_narrow_terminal_the_table_does_without_what_is_said_elsewhere() {
    let demo = Demo::start(&["--scenario", "mixed", "--api-only"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let arguments = ["status", "--kubeconfig", &kubeconfig];
    let headers = |shown: &str| -> Vec<String> {
        let header = shown.lines().find(|line| line.starts_with("CLUSTER")).unwrap();
        header.split("  ").map(str::trim).filter(|title| !title.is_empty()).map(str::to_owned).collect()
    };
    let whole = ["CLUSTER", "NAMESPACE", "MESH", "STATE", "TIME LEFT", "ENDS", "FINDINGS"];
    for (columns, expected) in [(120, &whole[..]), (100, &whole[..6]), (80, &whole[..5])] {
        let (shown, code) = OnTerminal::with_columns(columns, &mut meshcert(&arguments)).finish();
        let shown = without_colours(&shown);
        assert_eq!(code, Some(4), "{shown}");
        assert_eq!(headers(&shown), expected, "{columns} columns");
        let mut table = shown.lines().take_while(|line| !line.is_empty());
        assert!(table.all(|line| line.len() <= columns.into()), "{shown}");
        assert!(shown.contains("\nhosted-broken\n  "), "the findings stand below: {shown}");
    }
    let plan = ["plan", "hosted-expired", "--kubeconfig", &kubeconfig];
    let (shown, code) = OnTerminal::with_columns(80, &mut meshcert(&plan)).finish();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("THEN ENDS") && !shown.contains("SUBJECT"), "{shown}");
    assert!(without_colours(&shown).lines().all(|line| line.len() <= 80), "{shown}");
    let piped = text(&meshcert(&arguments).output().unwrap());
    assert_eq!(headers(&piped), whole, "a pipe is as wide as it has to be");
}

#[test]
fn whoever_waits_sees_a_bar_on_a_terminal_and_lines_in_a_pipe() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "2", "--mode", "auto"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let renew = |mesh| meshcert(&["renew", mesh, "--force", "--wait", "--kubeconfig", &kubeconfig]);
    let mut on_terminal = renew("healthy-1");
    let watched = OnTerminal::start(&mut on_terminal);
    let piped = renew("healthy-2").output().unwrap();
    let (shown, code) = watched.finish();

    assert_eq!(piped.status.code(), Some(0), "{}", String::from_utf8_lossy(&piped.stderr));
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "", "no bar in a pipe");
    let lines = text(&piped);
    let last = lines.lines().last().unwrap();
    assert!(!lines.contains(ESCAPE) && last.starts_with("Succeeded         "), "{lines}");

    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("[===") && shown.contains(ESCAPE), "{shown}");
    let (bars, told): (Vec<String>, Vec<String>) =
        without_colours(&shown).split(['\n', '\r']).map(str::to_owned).partition(|line| line.contains('['));
    assert!(bars.len() > 3, "{shown}");
    assert!(told.iter().any(|line| line.trim().starts_with("Succeeded")), "{told:?}");
}

#[test]
fn whoever_waits_is_told_what_the_renewal_waits_for() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--mode", "approve"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let run = |arguments: &[&str]| meshcert(arguments).args(["--wait", "--kubeconfig", &kubeconfig]).output().unwrap();
    let asked = run(&["renew", "healthy-1", "--force"]);
    let message = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{message}");
    let advice = message.strip_prefix("meshcert: try  ").unwrap().trim_end();
    let (plan, approve) = advice.split_once(", then ").unwrap();
    let planned = in_a_shell(plan);
    assert!(planned.status.success() && text(&planned).contains("digest: "), "{plan}: {planned:?}");
    let approved = in_a_shell(&format!("{approve} --wait"));
    assert_eq!(approved.status.code(), Some(0), "{}", text(&approved));
    assert!(text(&approved).contains("approved\n") && text(&approved).contains("Succeeded"), "{}", text(&approved));
}

#[test]
fn whoever_approves_on_a_terminal_is_asked_about_the_plan() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--mode", "approve"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let way = ["--kubeconfig", &*kubeconfig];
    assert!(meshcert(&["renew", "healthy-1", "--force"]).args(way).output().unwrap().status.success());
    demo.kubectl(&["wait", "crn", "--all", "--for=jsonpath={.status.phase}=AwaitingApproval", "--timeout=60s"]);
    let answered = |answer: &str| {
        let mut asked = OnTerminal::start(meshcert(&["approve", "healthy-1"]).args(way));
        let shown = asked.read_until("Agree to this plan? [y/N] ");
        assert!(shown.contains("digest: sha256:"), "{shown}");
        asked.write(answer);
        let (said, code) = asked.finish();
        let consent = demo.kubectl(&["get", "crn", "-o", "jsonpath={.items[*].spec.approval.planDigest}"]);
        (said, code, consent)
    };
    for no in ["\n", "n\n", "\u{4}"] {
        let (said, code, consent) = answered(no);
        assert!(code == Some(1) && said.contains("nothing is approved") && consent.is_empty(), "{no:?}: {said}");
    }
    let (said, code, consent) = answered("y\n");
    assert!(code == Some(0) && said.contains(" approved") && consent.starts_with("sha256:"), "{said}");
}

#[test]
fn what_an_error_advises_works_as_it_is_printed() {
    let folder = TempDir::new().unwrap();
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    moved(&demo, "healthy-1", "mesh-2");
    // A name that has to be quoted.
    let kubeconfig = folder.path().join("it's mine").display().to_string();
    std::fs::copy(&demo.kubeconfig, &kubeconfig).unwrap();
    let run =
        |arguments: &[&str]| meshcert(arguments).args(["-n", "mesh-2", "--kubeconfig", &kubeconfig]).output().unwrap();
    for (arguments, answer) in [
        (&["plan", "nosuch"][..], "healthy-1"),
        (&["renew", "nosuch"], "healthy-1"),
        (&["history", "nosuch"], "healthy-1"),
        (&["approve", "healthy-1"], "was never renewed"),
        (&["rollback", "healthy-1"], "was never renewed"),
    ] {
        let output = run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        let advice = message.split('`').nth(1).unwrap();
        let advised = in_a_shell(advice);
        assert!(advised.status.success() && text(&advised).contains(answer), "{advice}: {advised:?}");
    }
    demo.kubectl(&["delete", "crd", "certificaterenewals.meshcert.dev"]);
    let message = String::from_utf8(run(&["history", "healthy-1"]).stderr).unwrap();
    let advice = message.lines().last().unwrap().strip_prefix("meshcert: try  ").unwrap();
    let applied = in_a_shell(advice);
    assert!(applied.status.success() && run(&["history", "healthy-1"]).status.success(), "{advice}: {applied:?}");

    let nothing = meshcert(&["status", "-n", "mesh-9", "--kubeconfig", &kubeconfig]).output().unwrap();
    assert_eq!(nothing.status.code(), Some(0));
    let said = text(&nothing);
    assert!(said.contains("in default/mesh-9 (") && said.contains("choose namespaces with -n"), "{said}");
}

#[test]
fn a_secret_is_explained_in_the_namespace_that_it_is_named_with() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    moved(&demo, "healthy-1", "mesh-2");
    let kubeconfig = demo.kubeconfig.display().to_string();
    let explain = |more: &[&str]| {
        let mut command = meshcert(&["explain", "mesh-2/healthy-1-kube-certs", "--kubeconfig", &kubeconfig]);
        text(&command.args(more).output().unwrap())
    };
    let said = explain(&[]);
    assert!(said.contains("counted: the kube-certs of") && said.contains("leaf CN=kube-apiserver"), "{said}");
    let config = demo.folder.path().join("meshcert.yaml");
    std::fs::write(&config, "clusters: [{name: a}]\n").unwrap();
    for elsewhere in [&["-n", "istio-system"][..], &["--config", config.to_str().unwrap()]] {
        let said = explain(elsewhere);
        assert!(said.contains("not counted: namespace mesh-2 is not watched"), "{said}");
    }
}

#[test]
fn whoever_waits_where_nobody_acts_is_told_so_once() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let mut command = meshcert(&["renew", "healthy-1", "--force", "--wait", "--kubeconfig", &kubeconfig]);
    let mut waiting = Process(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut stderr = BufReader::new(waiting.0.stderr.take().unwrap());
    let mut first = String::new();
    stderr.read_line(&mut first).unwrap();
    let lease = format!("`kubectl -n istio-system get lease meshcert-leader --kubeconfig {kubeconfig}`");
    for part in ["nobody seems to act on namespace istio-system", "serve --roles act", &lease] {
        assert!(first.contains(part), "{part} in {first}");
    }
    // Many looks later.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(waiting.0.try_wait().unwrap().is_none(), "it goes on waiting");
    drop(waiting);
    let mut more = String::new();
    stderr.read_to_string(&mut more).unwrap();
    assert_eq!(more, "");
}

#[test]
fn whoever_asks_again_is_told_that_it_ended_as_before() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--mode", "auto"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    for attempt in ["the first", "the second"] {
        let output = meshcert(&["renew", "healthy-1", "--wait", "--kubeconfig", &kubeconfig]).output().unwrap();
        assert!(text(&output).contains("Refused") && output.status.code() == Some(1), "{attempt}: {output:?}");
    }
}

#[test]
fn an_error_names_the_command_that_helps_on() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("meshcert.yaml");
    std::fs::write(&config, "polcy: {}\n").unwrap();
    let config = config.display().to_string();
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    demo.kubectl(&["delete", "crd", "certificaterenewals.meshcert.dev"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let silent = of_nobody(&folder);
    for (arguments, advice) in [
        (&["config", "check", &config][..], "meshcert config schema"),
        (&["status", "--kubeconfig", "/nonexistent/kubeconfig"], "kubectl config get-contexts"),
        (&["plan", "a", "--kubeconfig", "/nonexistent/kubeconfig"], "kubectl config get-contexts"),
        (&["renew", "healthy-1", "--kubeconfig", &kubeconfig], "meshcert crd | kubectl apply -f -"),
        (&["history", "nosuch", "--kubeconfig", &kubeconfig], "` lists them"),
        (&["explain", "nosuch", "--kubeconfig", &kubeconfig], "name it NAMESPACE/NAME"),
        (&["explain", "mesh/nosuch", "--kubeconfig", &kubeconfig], "kubectl get secrets --namespace mesh"),
        (&["history", "healthy-1", "--kubeconfig", &silent], "kubectl get --raw /readyz"),
        (&["uninstall", "check", "--kubeconfig", &silent], "kubectl get --raw /readyz"),
        (&["serve", "--listen", &taken, "--kubeconfig", &kubeconfig], "--listen"),
    ] {
        let output = meshcert(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(advice), "{arguments:?}: {message}");
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_named_and_holds_up_no_other() {
    let folder = TempDir::new().unwrap();
    let demo = Demo::start(&["--scenario", "expiring", "--meshes", "1", "--api-only"]);
    let config = folder.path().join("meshcert.yaml");
    let clusters = [("silent", of_nobody(&folder)), ("demo", demo.kubeconfig.display().to_string())]
        .map(|(name, kubeconfig)| format!("{{name: {name}, kubeconfig: '{kubeconfig}'}}"));
    std::fs::write(&config, format!("clusters: [{}]\n", clusters.join(", "))).unwrap();
    let run = |arguments: &[&str]| meshcert(arguments).arg("--config").arg(&config).output().unwrap();
    let warning = |output: &Output| {
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(said.starts_with("meshcert: cluster silent/istio-system: GET "), "{said}");
        said
    };
    for (arguments, answer) in [
        (&["plan", "expiring-1"][..], "apiserver.crt"),
        (&["history", "expiring-1"], "never renewed"),
        (&["runbook", "expiring-1"], "rollout restart"),
        (&["renew", "expiring-1"], "expiring-1-"),
    ] {
        let output = run(arguments);
        assert_eq!(warning(&output).lines().count(), 1, "{output:?}");
        assert!(output.status.success() && text(&output).contains(answer), "{arguments:?}: {output:?}");
    }
    let nowhere = run(&["history", "nosuch"]);
    assert!(
        warning(&nowhere).contains("meshcert: there is no hosted mesh nosuch in demo/istio-system;"),
        "{nowhere:?}"
    );
    assert_eq!(nowhere.status.code(), Some(1));
}

#[test]
fn the_history_of_a_mesh_names_what_cannot_be_read() {
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let kubeconfig = demo.kubeconfig.display().to_string();
    let history = || meshcert(&["history", "healthy-1", "--kubeconfig", &kubeconfig]).output().unwrap();
    assert_eq!(text(&history()), "healthy-1 was never renewed by meshcert\n");
    demo.create_unreadable("odd", "healthy-1");
    let odd = history();
    assert_eq!(text(&odd), "no renewal of healthy-1 can be read\n");
    let said = String::from_utf8_lossy(&odd.stderr);
    let named = "meshcert: a renewal cannot be read, and may be one of healthy-1: odd: invalid value: ";
    assert!(said.starts_with(named) && said.contains("MeshcertNotActing"), "{said}");
}

#[test]
fn the_plugin_runs_under_its_own_name() {
    let folder = TempDir::new().unwrap();
    symlink(env!("CARGO_BIN_EXE_meshcert"), folder.path().join("kubectl-meshcert")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let kubectl = |arguments: &[&str]| {
        let output = Command::new(tools::kubectl()).args(arguments).env("PATH", &path).output().unwrap();
        (String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr), output.status.code())
    };
    let (help, code) = kubectl(&["meshcert", "renew", "--help"]);
    assert_eq!(code, Some(0), "{help}");
    assert!(help.contains("Usage: kubectl meshcert renew [OPTIONS] <MESH>"), "{help}");
    let (message, code) = kubectl(&["meshcert", "renew"]);
    assert!(code == Some(2) && message.contains("kubectl meshcert renew"), "{message}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let help = text(&meshcert(&["--help"]).output().unwrap());
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.trim().is_empty());
    let names: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.contains(&"renew") && names.contains(&"completions"), "{names:?}");

    let folder = TempDir::new().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = text(&meshcert(&["completions", shell]).output().unwrap());
        for name in &names {
            assert!(script.contains(name), "{shell} lacks {name}");
        }
        if shell == "bash" {
            let file = folder.path().join(shell);
            std::fs::write(&file, &script).unwrap();
            // As bash asks: the words so far, and the one that is completed.
            let ask = format!(
                "source {}; COMP_WORDS=(meshcert ren); COMP_CWORD=1; _meshcert meshcert ren meshcert; echo \"${{COMPREPLY[@]}}\"",
                file.display()
            );
            let answer = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
            assert_eq!(text(&answer), "renew\n", "{}", String::from_utf8_lossy(&answer.stderr));
        }
    }

    let pages = folder.path().join("man");
    assert!(meshcert(&["man", &pages.display().to_string()]).status().unwrap().success());
    let page = |name: &str| std::fs::read_to_string(Path::new(&pages).join(name)).unwrap();
    for name in names {
        assert!(page(&format!("meshcert-{name}.1")).contains(".TH"), "{name}");
    }
    assert_eq!(text(&meshcert(&["man"]).output().unwrap()), page("meshcert.1"));
}
