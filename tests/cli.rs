//! The commands as a user meets them: what they print, where, and with which exit code.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may panic")]

use std::path::Path;
use std::process::{Child, Stdio};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

const DAY: i64 = 86_400;

fn meshcert() -> Command {
    Command::cargo_bin("meshcert").unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the command under test asks the system's clock too")]
fn system_time() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// A self-signed certificate in PEM that ends in `days`, with its private key behind it.
fn mk_pem(common_name: &str, days: i64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    let now = system_time();
    let at = |days: i64| {
        let offset = std::time::Duration::from_secs(days.unsigned_abs() * DAY as u64);
        if days < 0 { now - offset } else { now + offset }
    };
    params.not_before = at(-400).into();
    params.not_after = at(days).into();
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Runs `check -o json`; the exit code and the answer.
fn check(arguments: &[&str]) -> (i32, Value) {
    let output = meshcert().args(["check", "-o", "json"]).args(arguments).output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn check_tells_by_its_exit_code_what_is_due() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, days| write(&folder, name, &mk_pem(name, days).0);
    let (fine, soon, over) = (file("fine", 200), file("soon", 20), file("over", -2));
    let broken = write(&folder, "broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let nowhere = folder.path().join("nowhere").display().to_string();
    let manifest = |name: &str, days| {
        let secret = json!({ "kind": "Secret", "stringData": { "tls.crt": mk_pem(name, days).0 } });
        write(&folder, &format!("{name}.yaml"), &format!("kind: [\n---\n{secret}\n"))
    };
    let (odd, odd_and_over) = (manifest("odd", 200), manifest("odd-and-over", -2));
    for (arguments, code) in [
        (vec![&*fine], 0),
        (vec![&*fine, &*soon], 3),
        (vec![&*soon, "--expiring-within", "10d"], 0),
        (vec![&*soon, &*over, &*fine], 4),
        (vec![&*broken], 1),
        (vec![&*odd], 1),
        (vec![&*odd_and_over], 4),
        (vec![&*nowhere], 1),
        (vec![&*nowhere, &*over], 4),
    ] {
        assert_eq!(check(&arguments).0, code, "{arguments:?}");
    }
    meshcert().args(["check", "--expiring-within", "soon", &fine]).assert().code(2);
}

#[test]
fn check_prints_the_promised_json() {
    let folder = TempDir::new().unwrap();
    let (certificate, key) = mk_pem("web", 200);
    let bundle = write(
        &folder,
        "bundle.pem",
        &format!("{key}{certificate}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    );
    let (code, answer) = check(&[&bundle]);
    assert_eq!(code, 1);
    let found = &answer["certificates"][0];
    assert_eq!(found["source"], json!(bundle));
    assert_eq!(
        (&found["position"], &found["subject"], &found["role"]),
        (&json!("0"), &json!("CN=web"), &json!("leaf"))
    );
    let fields: Vec<_> = found.as_object().unwrap().keys().cloned().collect();
    let mut expected = [
        "source",
        "position",
        "subject",
        "issuer",
        "serial_number",
        "not_before",
        "not_after",
        "role",
        "fingerprint_sha256",
    ];
    expected.sort_unstable();
    let mut fields = fields;
    fields.sort_unstable();
    assert_eq!(fields, expected);
    assert_eq!(found["fingerprint_sha256"].as_str().unwrap().len(), 64);
    let problem = &answer["problems"][0];
    assert_eq!((&problem["position"], &problem["reason"]), (&json!("1"), &json!("invalid_certificate")));
    assert!(problem["message"].is_string());
}

#[test]
fn check_reads_manifests_from_standard_input_and_never_shows_a_key() {
    let (certificate, key) = mk_pem("web", 200);
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "web", "namespace": "shop" },
        "stringData": { "tls.crt": certificate, "tls.key": key, "note": "not a certificate", "chain.pem": format!("{key}{certificate}") },
    });
    let output = meshcert().args(["check", "-o", "json"]).write_stdin(manifest.to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let sources: Vec<_> =
        answer["certificates"].as_array().unwrap().iter().map(|c| c["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["stdin:shop/web/chain.pem", "stdin:shop/web/tls.crt"]);
    assert_eq!(answer["problems"], json!([]));
    let secret = key.lines().nth(1).unwrap();
    assert!(!text.contains(secret) && !String::from_utf8(output.stderr).unwrap().contains(secret));
}

#[test]
fn check_tells_a_key_that_stands_where_a_certificate_should() {
    let folder = TempDir::new().unwrap();
    let (certificate, key) = mk_pem("web", 200);
    let alone = write(&folder, "tls.crt", &key);
    let (code, answer) = check(&[&alone]);
    assert_eq!((code, &answer["problems"][0]["reason"]), (1, &json!("certificate_missing")));
    let secret = json!({ "kind": "Secret", "metadata": { "name": "web" }, "stringData": { "tls.crt": key, "token": key, "ca.crt": certificate } });
    let (code, answer) = check(&[&write(&folder, "web.json", &secret.to_string())]);
    assert_eq!(code, 1);
    let sources: Vec<_> = answer["problems"].as_array().unwrap().iter().map(|problem| &problem["source"]).collect();
    assert_eq!(sources, [&json!(format!("{}:web/tls.crt", folder.path().join("web.json").display()))]);
    // A folder as certbot or kubeadm fills it: what is named for a private key owes no certificate.
    let all = [write(&folder, "fullchain.pem", &certificate), write(&folder, "privkey.pem", &key)];
    let (code, answer) = check(&[&all[0], &all[1]]);
    assert_eq!((code, &answer["problems"]), (0, &json!([])));
    let (code, answer) = check(&[&folder.path().display().to_string()]);
    assert_eq!((code, &answer["problems"][0]["message"]), (1, &json!("a directory; name the files in it")));
}

#[test]
fn check_reads_utf_16_and_skips_what_is_not_watched_either() {
    let folder = TempDir::new().unwrap();
    let manifest = |kind: &str, days| {
        let data = json!({ "tls.crt": mk_pem("web", days).0 });
        json!({ "kind": "Secret", "type": kind, "metadata": { "name": "web" }, "stringData": data }).to_string()
    };
    let text = format!("{}\n{}", manifest("kubernetes.io/tls", 200), manifest("meshcert.dev/backup", -2));
    let forms: [fn(u16) -> [u8; 2]; 2] = [u16::to_le_bytes, u16::to_be_bytes];
    for unit in forms {
        let bytes: Vec<u8> = std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(unit).collect();
        let file = folder.path().join("utf-16.json");
        std::fs::write(&file, bytes).unwrap();
        let output = meshcert().arg("check").arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("CN=web"));
        assert_eq!(said, "meshcert: skipped Secrets that are not watched either: 1 of meshcert.dev/backup\n");
    }
}

#[test]
fn a_reader_who_has_had_enough_changes_no_verdict() {
    let folder = TempDir::new().unwrap();
    let over = write(&folder, "over.pem", &mk_pem("over", -2).0);
    for form in ["table", "json", "yaml"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_meshcert"))
            .args(["check", "-o", form, &over])
            .stdout(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(4), "{form}");
    }
}

#[test]
fn check_prints_a_table_for_people() {
    let folder = TempDir::new().unwrap();
    let file = write(&folder, "soon.pem", &mk_pem("web", 20).0);
    let output = meshcert().args(["check", &file]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("SOURCE"), "{text}");
    let line = lines.next().unwrap();
    assert!(line.contains("CN=web") && (line.ends_with("19 days") || line.ends_with("20 days")), "{text}");
}

#[test]
fn the_configuration_is_checked_and_its_schema_printed() {
    let folder = TempDir::new().unwrap();
    let good = write(&folder, "good.yaml", "policy: {renewBefore: 40d}\n");
    let bad = write(&folder, "bad.yaml", "clusters: [{name: a, namespaces: []}]\n");
    meshcert().args(["config", "check", &good]).assert().success().stdout(format!("{good} is valid\n"));
    let output = meshcert().args(["config", "check", &bad]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("bad.yaml: clusters[0].namespaces: name at least one namespace"), "{message}");
    let schema = meshcert().args(["config", "schema"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    jsonschema::validator_for(&schema).unwrap();
    meshcert().args(["config", "check", "/nonexistent/meshcert.yaml"]).assert().code(1);
}

#[test]
fn status_and_explain_say_what_keeps_them_from_answering() {
    let folder = TempDir::new().unwrap();
    let nowhere = folder.path().join("nowhere").display().to_string();
    let unreadable = write(&folder, "kubeconfig", "clusters: {");
    for command in [&["status"][..], &["explain", "istio-system/a"]] {
        for kubeconfig in [&nowhere, &unreadable] {
            let output = meshcert().args(command).args(["--kubeconfig", kubeconfig]).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains(Path::new(kubeconfig).file_name().unwrap().to_str().unwrap()), "{message}");
        }
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_read_is_not_replaced_by_the_service_account() {
    let home = TempDir::new().unwrap();
    let usual = home.path().join(".kube/config");
    let said = |kubeconfig: &str| {
        let mut command = meshcert();
        command.arg("status").env("HOME", home.path()).env("KUBECONFIG", kubeconfig);
        // As in a pod.
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let (absent, remedy) = ("nor the pod's service account", "put it right, or take it away");
    assert!(said("").contains(absent) && !said("").contains(remedy), "{}", said(""));
    // A folder is read by nobody, root included.
    std::fs::create_dir_all(&usual).unwrap();
    for (kubeconfig, named) in [("", usual.to_str().unwrap()), ("/nonexistent/kc", "/nonexistent/kc")] {
        let said = said(kubeconfig);
        assert!(said.contains(named) && said.contains(remedy) && !said.contains(absent), "{said}");
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for arguments in [&["frobnicate"][..], &["serve", "--listen", "nowhere"], &["status", "-o", "xml"], &[]] {
        meshcert().args(arguments).assert().code(2);
    }
}

#[test]
fn a_namespace_that_cannot_be_is_wrong_usage_and_is_named() {
    for (namespaces, words) in [
        (&["-n", "Istio_System"][..], "'Istio_System' for '--namespace <NAME>': a namespace's name is 1 to 63 small"),
        (&["-n", ""], "'' for '--namespace <NAME>'"),
        (&["--namespace", "a/b"], "'a/b' for"),
        (&["-n", "a", "-n", "*"], "stands alone"),
    ] {
        for command in [&["status"][..], &["serve"], &["renew", "m"], &["uninstall", "check"]] {
            let output = meshcert().args(command).args(namespaces).args(["--kubeconfig", "/nowhere"]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?} {namespaces:?}: {said}");
            assert!(said.contains(words), "{said}");
        }
    }
}

/// A demo whose temporary files are in `folder`, once it has written them.
fn start_demo(folder: &TempDir) -> Child {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_meshcert"))
        .args(["demo", "--api-only", "--api-listen", "127.0.0.1:0", "--scenario", "healthy", "--meshes", "1"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let last = folder.path().join(format!("meshcert-demo-{}/meshcert.yaml", child.id()));
    while !last.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it runs");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child
}

#[test]
fn a_demo_removes_what_killed_ones_left_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let of = |number: &dyn std::fmt::Display| folder.path().join(format!("meshcert-demo-{number}"));
    std::fs::create_dir(of(&"notes")).unwrap();
    std::fs::create_dir(of(&std::process::id())).unwrap();
    let [mut killed, mut alive] = [start_demo(&folder), start_demo(&folder)];
    killed.kill().unwrap();
    killed.wait().unwrap();
    // As one in another container, whose number is nobody's here.
    std::fs::create_dir(of(&i32::MAX)).unwrap();
    let elsewhere = std::fs::File::open(of(&i32::MAX)).unwrap();
    elsewhere.lock().unwrap();
    assert!(of(&killed.id()).join("token").exists());
    let mut next = start_demo(&folder);
    let there =
        [of(&killed.id()), of(&alive.id()), of(&next.id()), of(&std::process::id()), of(&"notes"), of(&i32::MAX)];
    assert_eq!(there.map(|folder| folder.exists()), [false, true, true, true, true, true]);
    for demo in [&mut alive, &mut next] {
        demo.kill().unwrap();
        demo.wait().unwrap();
    }
}
