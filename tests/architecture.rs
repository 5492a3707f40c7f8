//! Holds the shape of the house: the direction of imports, a pure core, no forgotten file, no room too large.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each root module and the root modules it may name, besides itself. `docs/ARCHITECTURE.md` draws it.
const MAY_USE: &[(&str, &[&str])] = &[
    // Core: pure, time is an argument.
    ("time", &[]),
    ("name", &[]),
    ("cert", &["time"]),
    ("secret", &["cert", "mesh"]),
    ("mesh", &["cert", "secret", "time"]),
    ("inventory", &["mesh", "secret"]),
    ("digest", &[]),
    ("material", &["cert", "digest", "mesh", "secret"]),
    ("admin", &["cert", "material", "mesh"]),
    ("native", &["admin", "cert", "material", "mesh", "plan", "policy", "time"]),
    ("job", &["admin", "cert", "digest", "material", "mesh", "native", "policy", "time"]),
    ("policy", &["cert", "secret", "time"]),
    ("rollout", &["time"]),
    ("plan", &["cert", "digest", "job", "mesh", "policy", "rollout", "time"]),
    ("audit", &["admin", "cert", "material", "mesh", "native", "plan", "time"]),
    ("renewal", &["audit", "digest", "job", "material", "mesh", "native", "plan", "policy", "rollout", "time"]),
    ("crd", &["renewal"]),
    ("notification", &[]),
    ("runbook", &[]),
    // What the core and the shell need from outside.
    ("ports", &["secret", "time"]),
    ("config", &["cert", "mesh", "name", "policy", "rollout", "secret", "time"]),
    // Adapters: know core and ports, never each other.
    ("clock", &["ports", "time"]),
    ("cluster", &["cert", "digest", "job", "material", "name", "ports", "renewal", "rollout", "secret", "time"]),
    ("probe", &["cert"]),
    // Shell.
    ("tasks", &[]),
    ("observer", &["cert", "cluster", "inventory", "metrics", "name", "ports", "secret", "tasks", "time"]),
    ("follower", &["cluster", "ports", "renewal", "tasks", "time"]),
    ("metrics", &["cert", "inventory", "mesh", "policy", "ports", "renewal", "secret", "time"]),
    ("requests", &["cluster", "mesh", "name", "notification", "ports", "renewal", "time"]),
    (
        "controller",
        &[
            "admin", "cert", "cluster", "digest", "follower", "job", "material", "mesh", "metrics", "native", "plan",
            "policy", "ports", "probe", "renewal", "requests", "rollout", "time",
        ],
    ),
    (
        "server",
        &[
            "cert",
            "digest",
            "follower",
            "inventory",
            "mesh",
            "metrics",
            "name",
            "notification",
            "plan",
            "policy",
            "ports",
            "renewal",
            "requests",
            "runbook",
            "secret",
            "time",
        ],
    ),
    // An embedded Kubernetes with meshes; knows nothing of the daemon.
    ("demo", &["name", "ports", "time"]),
    // Composition root, then the command line on top.
    (
        "app",
        &[
            "cluster",
            "clock",
            "config",
            "controller",
            "follower",
            "metrics",
            "name",
            "notification",
            "observer",
            "policy",
            "ports",
            "requests",
            "secret",
            "server",
            "tasks",
        ],
    ),
    (
        "command",
        &[
            "app",
            "cert",
            "cli",
            "clock",
            "cluster",
            "config",
            "controller",
            "crd",
            "demo",
            "job",
            "material",
            "mesh",
            "metrics",
            "observer",
            "plan",
            "policy",
            "ports",
            "renewal",
            "requests",
            "rollout",
            "runbook",
            "secret",
            "server",
            "time",
        ],
    ),
    ("cli", &["app", "command", "config", "demo", "name", "policy"]),
];

const CORE: &[&str] = &[
    "time",
    "name",
    "cert",
    "secret",
    "mesh",
    "inventory",
    "digest",
    "material",
    "admin",
    "native",
    "job",
    "policy",
    "rollout",
    "plan",
    "audit",
    "renewal",
    "crd",
    "notification",
    "runbook",
];

/// What a pure module does not touch: I/O crates, the clock, files, sockets, the environment.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "kube::",
    "k8s_openapi",
    "axum",
    "hyper",
    "hyper_util",
    "tower",
    "prometheus_client",
    "tracing",
    "SystemTime",
    "Instant",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::io",
    "rand",
];

/// Lines without tests; longer means two ideas in one room.
const LONGEST: usize = 420;

struct Source {
    path: PathBuf,
    /// Without comments and without the unit tests at the end.
    code: String,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10, "the walk found the sources");
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let path = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().to_owned();
            found.push(Source { path, code });
        }
    }
}

impl Source {
    fn root(&self) -> String {
        self.path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
    }

    fn is_tests(&self) -> bool {
        self.path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testpki")
    }
}

/// The words that follow `prefix` in a text.
fn words_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).map(move |(at, _)| {
        let rest = &text[at + prefix.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

fn contains_word(text: &str, word: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    text.match_indices(word)
        .any(|(at, _)| edge(text[..at].chars().next_back()) && edge(text[at + word.len()..].chars().next()))
}

#[test]
fn imports_follow_the_direction_of_the_house() {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_tests()) {
        let root = source.root();
        if matches!(root.as_str(), "lib" | "main") {
            continue;
        }
        let Some(may_use) = allowed.get(root.as_str()) else {
            wrong.push(format!("{root} is not in the list of rooms"));
            continue;
        };
        let used = words_after(&source.code, "crate::");
        wrong.extend(
            used.filter(|module| *module != root && allowed.contains_key(module) && !may_use.contains(module))
                .map(|module| format!("{} uses {module}", source.path.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| CORE.contains(&source.root().as_str()) && !source.is_tests()) {
        wrong.extend(
            IMPURE
                .iter()
                .filter(|word| contains_word(&source.code, word))
                .map(|word| format!("{} touches {word}", source.path.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_file_is_declared_by_its_parent() {
    let all = sources();
    let code: BTreeMap<_, _> = all.iter().map(|source| (source.path.clone(), source)).collect();
    for source in &all {
        let name = source.path.file_stem().unwrap().to_str().unwrap();
        let parent = match source.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => folder.with_extension("rs"),
            None if matches!(name, "lib" | "main") => continue,
            None => PathBuf::from("lib.rs"),
        };
        let full = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(&parent));
        let full = full.unwrap_or_else(|_| panic!("{} has no parent {}", source.path.display(), parent.display()));
        assert!(
            code.contains_key(&parent) && contains_word(&full, &format!("mod {name}")),
            "{}",
            source.path.display()
        );
    }
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = sources()
        .iter()
        .filter(|source| !source.is_tests())
        .map(|source| (source.path.display().to_string(), source.code.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .collect();
    assert_eq!(long, []);
}
