//! `meshcert crd`: the CustomResourceDefinition, for `kubectl apply -f -`.

use std::io::{self, Write};

use crate::cli::Outcome;
use crate::crd;

/// Prints it as YAML.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> anyhow::Result<Outcome> {
    let mut stdout = io::stdout();
    stdout.write_all(serde_saphyr::to_string(&crd::definition())?.as_bytes())?;
    stdout.flush()?;
    Ok(Outcome::Fine)
}
