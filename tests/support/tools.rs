//! Programs of others that read what meshcert writes.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "only tests and benches use it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A Python with the module `prometheus_client`, from `MESHCERT_PYTHON`, the project's cache or the path.
pub fn python() -> Option<PathBuf> {
    python_with("prometheus_client")
}

/// A Python with a module, from the same places.
pub fn python_with(module: &str) -> Option<PathBuf> {
    let given = std::env::var_os("MESHCERT_PYTHON").map(PathBuf::from);
    let cached = ["venv", "python"].map(|name| root().join(".cache").join(name).join("bin/python3"));
    let import = format!("import {module}");
    let works =
        |python: &PathBuf| run(Command::new(python).args(["-c", &import]), b"").is_some_and(|out| out.status.success());
    let found = given.into_iter().chain(cached).chain([PathBuf::from("python3")]).find(works);
    or_skip(found, &format!("a Python with {module} (MESHCERT_PYTHON)"))
}

/// promtool, from `PROMTOOL`, the project's cache or the path.
pub fn promtool() -> Option<PathBuf> {
    let given = std::env::var_os("PROMTOOL").map(PathBuf::from);
    let works = |tool: &PathBuf| run(Command::new(tool).arg("--version"), b"").is_some_and(|out| out.status.success());
    let found = given.into_iter().chain([root().join(".cache/bin/promtool"), PathBuf::from("promtool")]).find(works);
    or_skip(found, "promtool (PROMTOOL)")
}

/// Runs a program with `input`; `None` where it cannot be started.
pub fn run(command: &mut Command, input: &[u8]) -> Option<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    let input = input.to_owned();
    // In a thread of its own: a program that answers while it reads would otherwise wait for us, and we for it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?;
    Some(output)
}

fn or_skip<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        assert!(std::env::var_os("MESHCERT_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "{what} is required and missing");
        eprintln!("SKIPPED: {what} is missing; set MESHCERT_REQUIRE_TOOLS=1 to make this a failure");
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The real kubectl, from the project's cache or the path.
pub fn kubectl() -> PathBuf {
    Some(root().join(".cache/bin/kubectl")).filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("kubectl"))
}

/// A program that `make tools` built.
pub fn built(name: &str) -> Option<PathBuf> {
    or_skip(Some(root().join(".cache/bin").join(name)).filter(|path| path.exists()), name)
}

/// Chromium and its chromedriver, from `CHROMIUM` and `CHROMEDRIVER` or the path.
pub fn chromium() -> Option<(PathBuf, PathBuf)> {
    let find = |variable: &str, name: &str| {
        let folders = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
        let on_path = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        std::env::var_os(variable).map(PathBuf::from).or(on_path)
    };
    or_skip(find("CHROMIUM", "chromium").zip(find("CHROMEDRIVER", "chromedriver")), "chromium with chromedriver")
}

/// The text of axe-core, which `make tools` installs.
pub fn axe() -> Option<String> {
    or_skip(std::fs::read_to_string(root().join(".cache/node/node_modules/axe-core/axe.min.js")).ok(), "axe-core")
}
