//! `meshcert crd`: the CustomResourceDefinition, for `kubectl apply -f -`.

use std::io;

use crate::cli::Outcome;
use crate::command::write;
use crate::crd;

/// Prints it as YAML.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> anyhow::Result<Outcome> {
    write(io::stdout(), serde_saphyr::to_string(&crd::definition())?)?;
    Ok(Outcome::Fine)
}
