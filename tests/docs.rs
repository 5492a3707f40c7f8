//! What the documents say holds: examples are valid, phases and commands are those of the code.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "a test may")]

use std::collections::BTreeSet;
use std::process::Command;

use meshcert::config::Config;
use meshcert::renewal::Phase;

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The fenced blocks of a language.
fn fences(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_examples_are_valid() {
    let examples: Vec<String> =
        fences(&page("docs/OPERATIONS.md"), "yaml").into_iter().filter(|text| text.contains("policy:")).collect();
    assert!(!examples.is_empty());
    for text in examples {
        let config = Config::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(
            config.policy.restart_tiers,
            Config::default().policy.restart_tiers,
            "the defaults, as they are said"
        );
    }
}

#[test]
fn the_diagram_has_the_phases_of_the_code() {
    let diagram = fences(&page("docs/RENEWAL.md"), "mermaid").pop().unwrap();
    let arrows = diagram.lines().filter_map(|line| line.trim().split(':').next()?.split_once(" --> "));
    let named: BTreeSet<&str> =
        arrows.flat_map(|(from, to)| [from.trim(), to.trim()]).filter(|name| *name != "[*]").collect();
    let known: BTreeSet<&str> = Phase::ALL.iter().map(|phase| phase.as_str()).collect();
    assert_eq!(named, known);
}

#[test]
fn the_readme_names_every_command() {
    let help = Command::new(env!("CARGO_BIN_EXE_meshcert")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.trim().is_empty());
    let names = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    let readme = page("README.md");
    for name in names.filter(|name| *name != "help") {
        assert!(readme.contains(&format!("`meshcert {name}")) || readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    for name in [
        "README.md",
        "docs/OPERATIONS.md",
        "docs/RENEWAL.md",
        "docs/SECURITY.md",
        "docs/ARCHITECTURE.md",
        "docs/ALERTS.md",
        "docs/E2E.md",
    ] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        for found in link.captures_iter(&page(name)) {
            assert!(folder.parent().unwrap().join(&found[1]).exists(), "{name} links to {}", &found[1]);
        }
    }
}
