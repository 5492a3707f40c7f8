//! The real Helm with the chart.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::tools;

pub const CHART: &str = "deploy/chart";

/// Helm, with a home of its own.
pub struct Helm {
    program: PathBuf,
    home: TempDir,
}

impl Helm {
    /// `None` where it is missing and not required.
    pub fn find() -> Option<Self> {
        Some(Self { program: tools::built("helm")?, home: TempDir::new().unwrap() })
    }

    /// Helm in the project's folder, with `values` on its standard input.
    pub fn run(&self, arguments: &[&str], values: &str) -> Output {
        tools::run(self.command().args(arguments), values.as_bytes()).unwrap()
    }

    /// Helm, to be completed.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(root()).env("HELM_CACHE_HOME", self.home.path()).env("HELM_CONFIG_HOME", self.home.path());
        command.env("HELM_DATA_HOME", self.home.path());
        command
    }

    /// What the chart renders, or what Helm says against the values.
    pub fn try_template(&self, values: &str, further: &[&str]) -> Result<String, String> {
        let arguments = ["template", "meshcert", CHART, "--namespace", "meshcert", "--values", "-"];
        let output = self.run(&[&arguments, further].concat(), values);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What the chart renders.
    pub fn template(&self, values: &str) -> String {
        self.try_template(values, &[]).unwrap_or_else(|error| panic!("{values}\n{error}"))
    }

    /// The same, read.
    pub fn objects(&self, values: &str) -> Vec<Value> {
        objects(&self.template(values))
    }
}

/// The documents of a rendering.
pub fn objects(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    all.into_iter().filter(|object| !object.is_null()).collect()
}

/// Those of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Namespace and name.
pub fn name(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it should be; with `UPDATE_GOLDEN` writes it.
pub fn golden(path: &str, wanted: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}; run `make golden`"));
    if let Some((line, (found, wanted))) =
        found.lines().zip(wanted.lines()).enumerate().find(|(_, (found, wanted))| found != wanted)
    {
        panic!("{path}, line {}: found\n{found}\nwanted\n{wanted}\nrun `make golden`", line + 1);
    }
    assert_eq!(found.len(), wanted.len(), "{path} is longer or shorter than it should be: run `make golden`");
}
