//! The shipped alert rules, as a test can wait for them.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::path::Path;

/// The rules about meshes with waiting times of nothing, so that the test need not wait; expressions and thresholds are untouched.
/// Those about meshcert itself wait as shipped: before the first scrape the exporter *is* absent.
pub fn impatient_rules(folder: &Path) -> String {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/meshcert.rules.yaml")).unwrap();
    let (meshes, itself) = text.split_once("  - name: meshcert-itself").unwrap();
    let lines =
        meshes.lines().map(|line| if line.trim_start().starts_with("for: ") { "        for: 0s" } else { line });
    let path = folder.join("rules.yaml");
    let meshes = lines.collect::<Vec<_>>().join("\n");
    std::fs::write(&path, format!("{meshes}\n  - name: meshcert-itself{itself}")).unwrap();
    path.display().to_string()
}
