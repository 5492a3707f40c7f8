//! `meshcert config`: the configuration file's schema and its check.

use std::io::{self, Write};

use anyhow::Context;

use crate::cli::{ConfigCommand, Outcome};
use crate::config::Config;

/// Runs `config schema` or `config check`.
///
/// # Errors
/// The file cannot be read or is invalid.
pub fn run(command: ConfigCommand) -> anyhow::Result<Outcome> {
    let answer = match command {
        ConfigCommand::Schema => serde_json::to_string_pretty(&Config::schema())?,
        ConfigCommand::Check { file } => {
            Config::load(&file).with_context(|| file.display().to_string())?;
            format!("{} is valid", file.display())
        }
    };
    writeln!(io::stdout(), "{answer}")?;
    Ok(Outcome::Fine)
}
