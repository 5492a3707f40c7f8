//! The commands, one module each, and what they share: how an answer is printed.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::Output;
use table::{Tone, printable, table, table_within};

pub mod advice;
pub mod check;
pub mod config;
pub mod crd;
#[cfg(feature = "demo")]
pub mod demo;
pub mod explain;
pub mod history;
mod progress;
pub mod renew;
mod renewal;
pub mod runbook;
pub mod serve;
pub mod shell;
pub mod status;
mod table;
pub mod uninstall;

/// Prints an answer as asked for; `table` is called for [`Output::Table`] alone. A reader who had enough of it (`meshcert check … | head -1`) changes no verdict.
fn print<T: Serialize>(answer: &T, output: Output, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    let printed = match output {
        Output::Table => say(&table()),
        Output::Json => write(io::stdout().lock(), format!("{}\n", serde_json::to_string_pretty(answer)?)),
        Output::Yaml => write(io::stdout().lock(), serde_saphyr::to_string(answer)?),
    };
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Prints a text for people, with its colours where they are wanted: on a terminal, or as `--color`, `NO_COLOR` and `CLICOLOR_FORCE` say.
fn say(text: &str) -> io::Result<()> {
    write(anstream::stdout().lock(), text)
}

fn write(mut to: impl Write, text: impl AsRef<[u8]>) -> io::Result<()> {
    to.write_all(text.as_ref())?;
    to.flush()
}

/// How many columns the terminal has to which standard output goes; `None` where it goes elsewhere.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    // A serial console does not know.
    (size.ws_col > 0).then(|| size.ws_col.into())
}
