//! What the documents say holds: examples are valid, phases and commands are those of the code.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test may")]

#[path = "docs/configuration.rs"]
mod configuration;
#[path = "docs/links.rs"]
mod links;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use clap::{CommandFactory, Parser};
use meshcert::cli::Cli;
use meshcert::config::Config;
use meshcert::ports::SourceErrorReason;
use meshcert::renewal::Phase;
use regex::Regex;
use serde_json::Value;
use support::helm::Helm;
use support::tools;

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The fenced blocks of a language, without the indentation that a list gives them.
fn fences(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() == format!("```{language}") {
            let indent = line.len() - line.trim_start().len();
            let inside = lines.by_ref().take_while(|line| line.trim() != "```");
            found.push(inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect());
        }
    }
    found
}

/// Runs a checker on a text in a file; where it is not there, nothing is checked.
fn checked_by(tool: &str, arguments: &[&str], text: &str) -> Result<(), String> {
    let Some(tool) = tools::built(tool) else { return Ok(()) };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let output = Command::new(tool).args(arguments).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said.into_owned()) }
}

/// What is wrong with an example, by whoever reads such a file.
fn judge(example: &str) -> Result<(), String> {
    match example.split(':').next().unwrap() {
        // A part of the file is a file: everything has a default.
        "clusters" | "secretRules" | "tls" | "webhook" => {
            Config::parse(example).map(drop).map_err(|error| error.to_string())
        }
        "receivers" => {
            let parsed: Value = serde_saphyr::from_str(example).unwrap();
            let route = format!("route: {{receiver: {}}}\n", parsed["receivers"][0]["name"]);
            checked_by("amtool", &["check-config"], &format!("{route}{example}"))
        }
        "cluster" | "policy" | "extraClusters" | "monitoring" => {
            Helm::find().map_or(Ok(()), |helm| helm.try_template(example, &[]).map(drop))
        }
        "rule_files" => checked_by("promtool", &["check", "config", "--syntax-only"], example),
        // Objects of Kubernetes: tests/docs_commands.rs creates them, tests/chart_rendering.rs compares the Role with the chart's.
        "apiVersion" => Ok(()),
        other => Err(format!("nobody reads a file that begins with {other:?}")),
    }
}

#[test]
fn every_example_is_accepted_by_whoever_reads_such_a_file() {
    let mut seen = 0;
    for (name, text) in links::pages(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        for example in fences(&text, "yaml") {
            judge(&example).unwrap_or_else(|error| panic!("{}: {error}\n{example}", name.display()));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
    for (wrong, judged_by) in [
        ("tls: {certFiel: a}\n", None),
        ("receivers: [{name: a, webhook_config: []}]\n", Some("amtool")),
        ("extraClusters: [{nam: a}]\n", Some("helm")),
        ("rule_files: [a]\nscrape_config: []\n", Some("promtool")),
        ("unheard: of\n", None),
    ] {
        let missing = judged_by.is_some_and(|tool| tools::built(tool).is_none());
        assert!(judge(wrong).is_err() || missing, "{wrong}");
    }
    let operations = fences(&page("docs/OPERATIONS.md"), "yaml");
    let example = operations.iter().find(|text| text.contains("restartTiers:")).unwrap();
    let tiers = Config::parse(example).unwrap().policy.restart_tiers;
    assert_eq!(tiers, Config::default().policy.restart_tiers, "the defaults, as they are said");
}

#[test]
fn every_rule_names_tests_that_there_are() {
    let text = page("docs/RENEWAL.md");
    let table = text.split("\n## ").find(|part| part.starts_with("Rules, ")).unwrap();
    let rules: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert_eq!(rules.len(), 15);
    for rule in rules {
        let tests: Vec<_> = rule.split('`').filter_map(|word| word.split_once("::")).collect();
        assert!(!tests.is_empty(), "{rule}");
        for (file, test) in tests {
            assert!(page(file).contains(&format!("fn {test}(")), "{file} has no {test}");
        }
    }
}

/// Whether `.dockerignore` lets a path into the build's context: the last rule that fits it decides.
fn is_let_in(rules: &str, path: &str) -> bool {
    let fits = |rule: &&str| {
        let place = rule.trim_start_matches('!');
        place == "*" || path == place || path.starts_with(&format!("{place}/"))
    };
    rules.lines().rfind(fits).is_none_or(|rule| rule.starts_with('!'))
}

/// What a source file embeds from outside of `src`, relative to the project; of a name that is put together, the folder.
fn embedded(file: &Path, found: &mut BTreeSet<String>) {
    if file.is_dir() {
        std::fs::read_dir(file).unwrap().for_each(|entry| embedded(&entry.unwrap().path(), found));
        return;
    }
    let named = Regex::new(r#"include_(?:str|bytes)!\((?:concat!\()?\s*"([^"]+)""#).unwrap();
    let depth = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().components().count() - 1;
    for path in named.captures_iter(&std::fs::read_to_string(file).unwrap()).map(|found| found[1].to_owned()) {
        let rest = path.trim_start_matches("../");
        if (path.len() - rest.len()) / 3 == depth {
            found.insert(rest.trim_end_matches('/').to_owned());
        }
    }
}

#[test]
fn the_image_is_built_with_all_that_the_program_embeds() {
    let mut found = BTreeSet::new();
    embedded(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let names: Vec<&str> = found.iter().map(String::as_str).collect();
    assert!(names.contains(&"docs/openapi.yaml") && names.contains(&"docs/runbooks"), "{names:?}");
    let rules = page(".dockerignore");
    for path in names.iter().chain(&["Cargo.toml", "Cargo.lock", "src/main.rs"]) {
        assert!(is_let_in(&rules, path), "`docker build .` lacks {path}");
    }
    for path in ["docs/INSTALL.md", "target/debug/meshcert", ".cache", ".git"] {
        assert!(!is_let_in(&rules, path), "{path} is not needed");
    }
}

#[test]
fn the_queries_in_the_pages_are_promql() {
    let mut seen = 0;
    for (name, text) in links::pages(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        for query in fences(&text, "promql") {
            promql_parser::parser::parse(&query).unwrap_or_else(|error| panic!("{}: {error}\n{query}", name.display()));
            seen += 1;
        }
    }
    assert!(seen > 0);
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
fn the_runbook_of_a_source_that_is_down_knows_every_reason() {
    let runbook = page("docs/runbooks/MeshcertSourceDown.md");
    let named = runbook.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let known = SourceErrorReason::ALL.map(SourceErrorReason::as_str);
    assert_eq!(named.collect::<BTreeSet<_>>(), known.into());
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
    // Those are about the command itself; docs/CLI.md has them.
    for name in names.filter(|name| !["help", "completions", "man"].contains(name)) {
        assert!(readme.contains(&format!("`meshcert {name}")) || readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_commands_of_the_readme_and_of_console_blocks_are_understood() {
    let (readme, makefile) = (page("README.md"), page("Makefile"));
    let text = readme + &fences(&page("docs/INSTALL.md"), "console").concat();
    let ours =
        Regex::new("(?m)(?:[`$|]|exec [^`\n]*?--) ?(?:meshcert|cargo run --release --) ([a-z-]+[^`|\n]*)").unwrap();
    let mut seen = 0;
    for command in ours.captures_iter(&text).map(|found| found[1].to_owned()) {
        let parsed = Cli::try_parse_from(["meshcert"].into_iter().chain(command.split_whitespace()));
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
        seen += 1;
    }
    assert!(seen > 12, "{seen}");
    let targets = Regex::new("(?m)(?:^|`|\\$ )make ([a-z0-9-]+)").unwrap();
    for target in targets.captures_iter(&text).map(|found| found[1].to_owned()) {
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

#[test]
fn the_readmes_table_has_the_columns_of_the_definition() {
    let definition = serde_json::to_value(meshcert::crd::definition()).unwrap();
    let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let narrow = columns.iter().filter(|column| column["priority"].as_i64().unwrap_or_default() == 0);
    let names = narrow.map(|column| column["name"].as_str().unwrap().to_uppercase());
    let wanted: Vec<String> = ["NAME".to_owned()].into_iter().chain(names).collect();
    let shown = fences(&page("README.md"), "console").concat();
    let header = shown.lines().find(|line| line.starts_with("NAME")).unwrap();
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), wanted);
}

/// What the description of the command line says, command by command.
fn command_line() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         Written from the help by `tests/docs.rs`; `make golden` writes it anew. Exit codes: 0 fine, 1 error or incomplete, 2 wrong usage, 3 a certificate ends soon, 4 one has ended.\n\
         A namespace that does not exist is one without meshes, as with kubectl: `meshcert status` says that it found none, and ends with 0.\n\n\
         Tables are coloured on a terminal and plain in a pipe; `--color`, `NO_COLOR` and `CLICOLOR_FORCE` decide otherwise. `meshcert completions bash > /etc/bash_completion.d/meshcert` teaches a shell,\n\
         `meshcert man /usr/local/share/man/man1` the manual. With a link to the binary under the name `kubectl-meshcert` on the path, `kubectl meshcert …` does the same.\n",
    );
    let mut command = Cli::command().term_width(100).bin_name("meshcert");
    command.build();
    describe(&mut command, 2, &mut text);
    text
}

fn describe(command: &mut clap::Command, level: usize, text: &mut String) {
    let name = command.get_bin_name().unwrap().to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
    text.push_str(&format!("\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), help.join("\n")));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        describe(sub, 3, text);
    }
}

/// Compares a page with what it is generated from, or writes it.
fn generated(name: &str, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(format!("{}/{name}", env!("CARGO_MANIFEST_DIR")), text).unwrap();
    }
    assert!(page(name) == text, "{name} is not what is generated: run `make golden`");
}

#[test]
fn the_page_of_commands_is_their_help() {
    generated("docs/CLI.md", &command_line());
}

#[test]
fn the_page_of_the_configuration_is_its_schema() {
    let schema = serde_json::to_value(Config::schema()).unwrap();
    generated("docs/CONFIGURATION.md", &configuration::page(&schema));
}

#[test]
fn every_link_leads_somewhere() {
    let broken = links::broken(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
