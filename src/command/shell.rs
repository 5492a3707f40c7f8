//! `meshcert completions` and `meshcert man`: what a shell and man(1) want to know, from the same description as the help.

use std::io;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs, ManArgs, Outcome};
use crate::command::write;

/// Prints the completions for a shell.
///
/// # Errors
/// Standard output is closed.
pub fn completions(args: CompletionsArgs) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "meshcert", &mut script);
    write(io::stdout(), script)?;
    Ok(Outcome::Fine)
}

/// Prints the manual page, or writes that of every command into a folder.
///
/// # Errors
/// The folder cannot be made or written to, or standard output is closed.
pub fn man(args: ManArgs) -> anyhow::Result<Outcome> {
    let Some(folder) = args.folder else {
        // As the pages of a folder: `help` has none.
        clap_mangen::Man::new(Cli::command().disable_help_subcommand(true)).render(&mut io::stdout())?;
        return Ok(Outcome::Fine);
    };
    let pages = || {
        std::fs::create_dir_all(&folder)?;
        clap_mangen::generate_to(Cli::command(), &folder)
    };
    pages().with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
    Ok(Outcome::Fine)
}
