//! The pages in a headless Chromium, on `meshcert demo`. `UPDATE_GOLDEN=1` takes the README's picture anew.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::browser::Browser;
use support::daemon::Demo;
use support::http::get;
use support::tools;

/// Runs what a person would paste into a shell.
fn paste(demo: &Demo, command: &str) {
    let kubectl = tools::kubectl();
    let folders = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let path = std::env::join_paths(kubectl.parent().map(Path::to_owned).into_iter().chain(folders)).unwrap();
    let output = Command::new("bash")
        .args(["-c", command])
        .env("PATH", path)
        .env("KUBECONFIG", &demo.kubeconfig)
        .env("KUBECACHEDIR", demo.folder.path().join("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until so many renewals are in a phase.
fn wait_for(demo: &Demo, phase: &str, count: usize) {
    for _ in 0..1200 {
        let answer = get(&demo.address, "/api/v1/renewals");
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        if answer["renewals"].as_array().unwrap().iter().filter(|one| one["phase"] == phase).count() == count {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("there were never {count} renewals in {phase}");
}

/// Waits until the meshes are known.
fn wait_until_ready(demo: &Demo) {
    while get(&demo.address, "/-/ready").status != 200 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn mesh_page(demo: &Demo, mesh: &str) -> String {
    format!("http://{}/meshes/demo/istio-system/{mesh}", demo.address)
}

#[test]
fn an_expiring_mesh_is_approved_and_goes_through_its_steps_before_the_readers_eyes() {
    let Some(browser) = Browser::start() else { return };
    let demo = Demo::start(&["--mode", "approve", "--scenario", "expiring", "--meshes", "1"]);
    wait_until_ready(&demo);
    browser.open(&mesh_page(&demo, "expiring-1"));
    // The page is never loaded again from here on; it notes down which step it shows as the present one.
    browser.eval(
        "window.steps = []; new MutationObserver(() => { const now = document.querySelector('.steps .now b'); if (now) window.steps.push(now.innerText); })
           .observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });",
    );
    browser.wait("document.getElementById('approve')");
    assert!(
        browser.text().contains("Waiting for approval") && browser.text().contains("MeshcertRenewalAwaitingApproval")
    );
    assert!(
        browser.eval("return document.getElementById('plan').open").as_bool().unwrap(),
        "the plan is there to read"
    );
    assert_eq!(browser.eval("return document.querySelectorAll('.diff li').length"), 8);
    assert!(browser.eval("return document.querySelectorAll('rect.next').length").as_u64().unwrap() >= 8);
    let command = browser.eval("document.getElementById('copy').click(); return getSelection().toString()");
    let command = command.as_str().unwrap();
    assert!(command.starts_with("kubectl -n istio-system patch"), "{command}");
    browser.wait("['Copied.', 'Selected; copy it by hand.'].includes(document.getElementById('news').textContent)");
    // What is open stays open, and what has the focus keeps it, while the page changes around it.
    browser.eval("document.getElementById('leaves').open = true; document.getElementById('leaves-summary').focus()");

    paste(&demo, command);
    browser.wait("document.querySelector('.steps .good')");
    let text = browser.text();
    assert!(text.contains("Renewed and proven") && text.contains("364 days left"), "{text}");
    assert!(!text.contains("kubectl -n istio-system patch"), "there is nothing to approve any more");
    assert_eq!(browser.eval("return document.querySelectorAll('.bar.expiring').length"), 0);
    assert_eq!(
        browser.eval("return [document.getElementById('leaves').open, document.activeElement.id]"),
        json!([true, "leaves-summary"])
    );
    let steps = browser.eval("return window.steps");
    assert!(steps.as_array().unwrap().contains(&json!("Restarting")), "{steps}");
    // The page may have been asked for between the change and its event.
    browser.wait("document.getElementById('news').textContent === 'expiring-1: succeeded'");
    // The leader has looked at what endpoints serve, and the page shows it at the next look.
    browser.wait("(document.dispatchEvent(new Event('visibilitychange')), document.querySelectorAll('circle.served').length >= 3)");
    assert!(browser.text().contains("the stored certificate"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_lost_connection_is_said_and_found_again() {
    let Some(browser) = Browser::start() else { return };
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    browser.open(&format!("http://{}/", demo.address));
    browser.wait("document.getElementById('live').textContent === 'live'");
    // Once the leader has looked at the endpoints too.
    browser.wait(
        "(document.dispatchEvent(new Event('visibilitychange')), document.body.innerText.includes('All is well'))",
    );
    let id = demo.process.0.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    browser.devtools("Network.enable", json!({}));
    let network = |offline: bool| {
        let conditions = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        browser.devtools("Network.emulateNetworkConditions", conditions);
    };
    network(true);
    browser.eval("document.dispatchEvent(new Event('visibilitychange'))");
    browser.wait("document.getElementById('live').textContent.startsWith('no connection since')");
    network(false);
    browser.wait("document.getElementById('live').textContent === 'live'");
    signal("-TERM");
    browser.wait("document.getElementById('live').textContent.startsWith('no connection since')");
    assert!(browser.text().contains("All is well"), "what was known is still there");
}

#[test]
fn what_others_wrote_stays_text() {
    let Some(browser) = Browser::start() else { return };
    let demo = Demo::start(&["--scenario", "healthy", "--meshes", "1"]);
    let hostile = "<img src=x onerror=pwned()><script>pwned()</script>\"'";
    // Whoever may write a mesh's Secret chooses the names in its kubeconfig.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [], "users": [{ "name": hostile, "user": { "client-certificate-data": "bm90aGluZw==" } }],
        "contexts": [{ "name": "c", "context": { "cluster": hostile, "user": hostile } }],
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "evil-apiserver-admin-kubeconfig", "namespace": "istio-system" },
        "stringData": { "config": config.to_string() },
    });
    demo.kubectl_with(&secret.to_string(), &["apply"]);
    let renewal = json!({
        "apiVersion": "meshcert.dev/v1alpha1", "kind": "CertificateRenewal", "metadata": { "name": "evil", "namespace": "istio-system" },
        "spec": { "meshId": "evil" },
    });
    demo.kubectl_with(&renewal.to_string(), &["create"]);
    let step = json!({ "name": "Staging", "attempt": 1, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z", "result": hostile });
    let condition = json!({ "type": hostile, "status": "True", "reason": hostile, "message": hostile, "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let status = json!({
        "phase": "Failed", "reason": hostile, "message": hostile, "attempt": 1, "cleanedUp": true, "observedGeneration": 1,
        "steps": [step], "conditions": [condition],
        "plan": { "digest": hostile, "engine": "native", "image": hostile, "serviceAccount": hostile, "engineReason": hostile, "endsAt": "2026-01-01T00:00:00Z",
                  "leaves": [{ "secret": hostile, "key": hostile, "serialNumber": hostile, "subject": hostile, "names": [hostile],
                               "keyType": "RSA-2048", "endsAt": "2026-01-01T00:00:00Z", "nextEndsAt": "2027-01-01T00:00:00Z" }],
                  "restarts": [{ "tier": 0, "kind": "Deployment", "name": hostile, "pods": 1, "outage": hostile }] },
    });
    let patch = json!({ "status": status }).to_string();
    demo.kubectl(&["patch", "crn", "evil", "--subresource=status", "--type=merge", "-p", &patch]);
    for page in ["/", "/meshes/demo/istio-system/evil", "/?q=%3Cimg%20src=x%20onerror=pwned()%3E%22%27"] {
        browser.open(&format!("http://{}{page}", demo.address));
        browser.eval("window.pwned = () => { window.done = true; }; document.querySelectorAll('details').forEach((one) => { one.open = true; })");
        // Through the script's way into the page too.
        browser.eval("document.dispatchEvent(new Event('visibilitychange'))");
        browser.wait("document.getElementById('live').textContent === 'live'");
        assert_eq!(browser.eval("return [window.done === undefined, document.querySelectorAll('main img, main script, [onerror]').length]"), json!([true, 0]), "{page}");
        let everything = browser.eval("return document.getElementById('main').textContent + (document.getElementById('q') || { value: '' }).value");
        assert!(everything.as_str().unwrap().contains("<img src=x onerror=pwned()>"), "{page}: {everything}");
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
    }
}

#[test]
fn without_scripts_everything_is_there() {
    let Some(browser) = Browser::start() else { return };
    let demo = Demo::start(&["--mode", "approve", "--scenario", "mixed"]);
    wait_for(&demo, "AwaitingApproval", 3);
    browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    let page = |path: &str| {
        browser.open(&format!("http://{}{path}", demo.address));
        browser.text()
    };
    let first = page("/");
    for words in [
        "5 of 6 meshes need attention",
        "hosted-critical",
        "Waiting for approval",
        "stands still without scripts",
        "demo/istio-system",
    ] {
        assert!(first.contains(words), "{words} in {first}");
    }
    let mesh = page("/meshes/demo/istio-system/hosted-demo");
    for words in [
        "kubectl -n istio-system patch",
        "Making a plan",
        "Restarts, in this order",
        "apiserver.crt",
        "Served by endpoints",
    ] {
        assert!(mesh.contains(words), "{words} in {mesh}");
    }
    assert_eq!(
        browser.eval("return getComputedStyle(document.getElementById('copy')).display"),
        "none",
        "it could do nothing"
    );
    assert_eq!(browser.eval("return document.querySelector('meta[http-equiv]')"), Value::Null);
    let moving = page("/?refresh=15&q=crit");
    assert_eq!(browser.eval("return document.querySelector('meta[http-equiv=refresh]').content"), "15");
    assert!(moving.contains("loaded every 15 seconds") && !moving.contains("stands still"), "{moving}");
    page("/?q=crit");
    let links =
        browser.eval("return [...document.querySelectorAll('.still a')].map((one) => one.href.split('/').pop())");
    assert_eq!(links, json!(["?q=crit", "?q=crit&refresh=15"]));
    // Forms and links do the rest.
    let found = page("/?q=crit");
    assert!(found.contains("hosted-critical") && !found.contains("hosted-broken"), "{found}");
    let expired = page("/?state=expired");
    assert!(expired.contains("hosted-expired") && !expired.contains("hosted-healthy"), "{expired}");
    page("/meshes/demo/istio-system/hosted-demo");
    let link = browser.eval("return document.getElementById('runbook').getAttribute('href')");
    let runbook = page(link.as_str().unwrap());
    assert!(runbook.contains("describe crn hosted-demo-"), "{runbook}");
    let runbook = page("/runbooks/MeshcertRenewalHeld?mesh=hosted-demo&namespace=istio-system&cluster=cp-1");
    assert!(runbook.contains("meshcert plan hosted-demo -n istio-system"), "{runbook}");
    assert!(runbook.contains("The commands are for the cluster cp-1"), "{runbook}");
}

#[test]
fn axe_finds_nothing_and_nothing_is_wider_than_the_screen() {
    let (Some(axe), Some(browser)) = (tools::axe(), Browser::start()) else { return };
    let demo = Demo::start(&["--mode", "approve", "--scenario", "mixed"]);
    wait_for(&demo, "AwaitingApproval", 3);
    let command = get(&demo.address, "/api/v1/renewals?mesh=hosted-demo");
    let command: Value = serde_json::from_str(&command.body).unwrap();
    paste(&demo, command["renewals"][0]["approveCommand"].as_str().unwrap());
    wait_for(&demo, "Succeeded", 1);
    let pages = [
        "/",
        "/?q=e&state=ok",
        "/?q=nothing-is-called-so",
        "/meshes/demo/istio-system/hosted-critical",
        "/meshes/demo/istio-system/hosted-demo",
        "/meshes/demo/istio-system/hosted-broken",
    ];
    let runbooks = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbooks")).unwrap();
    let runbooks = runbooks.map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        format!("/runbooks/{name}?mesh=hosted-demo&namespace=istio-system&cluster=demo")
    });
    let paths: Vec<String> = pages.map(str::to_owned).into_iter().chain(runbooks).collect();
    // For a person to look at, after any run.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    let views = [(390, "dark"), (1280, "light"), (390, "light"), (1280, "dark")];
    for path in &paths {
        // The runbooks are all of one make.
        let views = if path.starts_with("/runbooks/") { &views[..2] } else { &views[..] };
        for &(width, scheme) in views {
            browser.scheme(scheme);
            browser.size(width, 900, 1.0);
            browser.open(&format!("http://{}{path}", demo.address));
            browser.eval("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
            browser.wait("document.getElementById('live').textContent === 'live'");
            browser.eval(&axe);
            let found = browser.eval_async("axe.run().then((all) => done(all.violations.map((one) => [one.id, one.nodes.map((node) => [node.html, node.failureSummary])])))");
            assert_eq!(found, json!([]), "{path}, {width} px, {scheme}");
            let wide =
                browser.eval("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert_eq!(wide, 0, "{path} at {width} px can be moved sideways");
            assert_eq!(browser.complaints(), Vec::<String>::new(), "{path}");
            let name: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let file = folder.join(format!("{name}-{width}-{scheme}.png"));
            browser.screenshot(&file);
            let picture = std::fs::read(&file).unwrap();
            assert!(picture.starts_with(b"\x89PNG") && picture[16..20] == u32::to_be_bytes(width), "{path}");
        }
    }
}

#[test]
fn the_readmes_picture_is_there_and_small() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images/page.png");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
        && let Some(browser) = Browser::start()
    {
        let demo = Demo::start(&["--mode", "approve", "--scenario", "mixed"]);
        wait_for(&demo, "AwaitingApproval", 3);
        browser.open(&format!("http://{}/", demo.address));
        browser.wait("(document.dispatchEvent(new Event('visibilitychange')), !document.getElementById('unseen'))");
        let one = get(&demo.address, "/api/v1/renewals?mesh=hosted-demo");
        let one: Value = serde_json::from_str(&one.body).unwrap();
        paste(&demo, one["renewals"][0]["approveCommand"].as_str().unwrap());
        wait_for(&demo, "Restarting", 1);
        browser.scheme("light");
        browser.size(900, 900, 1.0);
        browser.open(&format!("http://{}/", demo.address));
        browser.wait("document.getElementById('live').textContent === 'live'");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        browser.screenshot(&file);
    }
    let picture = std::fs::read(&file).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() < 200_000, "{} bytes", picture.len());
}
