//! How the command is called, and what tells shells about it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::config::ALL;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for one page per command; default: print the first page.
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line; ends the process where it is wrong, or asks for help. Called as kubectl's plugin, the help says so.
    pub fn read() -> Self {
        let mut command = Self::command().bin_name(program());
        let matches = command.get_matches_mut();
        let cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let namespaces = cli.sources().namespaces;
        if namespaces.len() > 1 && namespaces.iter().any(|name| name == ALL) {
            command.error(ErrorKind::ArgumentConflict, "--namespace '*' means all namespaces and stands alone").exit();
        }
        cli
    }
}

/// What a person types to call this program.
pub(crate) fn program() -> &'static str {
    name(std::env::args_os().next().as_deref())
}

/// kubectl runs `kubectl-meshcert` for `kubectl meshcert`.
fn name(file: Option<&OsStr>) -> &'static str {
    let stem = file.map(Path::new).and_then(Path::file_stem);
    if stem == Some(OsStr::new("kubectl-meshcert")) { "kubectl meshcert" } else { "meshcert" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_plugin_is_called_as_kubectl_calls_it() {
        for (file, expected) in
            [("/usr/bin/kubectl-meshcert", "kubectl meshcert"), ("target/debug/meshcert", "meshcert"), ("", "meshcert")]
        {
            assert_eq!(name(Some(OsStr::new(file))), expected);
        }
        assert_eq!(name(None), "meshcert");
    }
}
