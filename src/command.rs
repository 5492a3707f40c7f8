//! The commands, one module each, and what they share: how an answer is printed.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::cli::Output;

pub mod check;
pub mod config;
pub mod crd;
#[cfg(feature = "demo")]
pub mod demo;
pub mod explain;
pub mod history;
pub mod renew;
mod renewal;
pub mod runbook;
pub mod serve;
pub mod status;

/// Prints an answer as asked for; `table` is called for [`Output::Table`] alone.
fn print<T: Serialize>(answer: &T, output: Output, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => table(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(answer)?),
        Output::Yaml => serde_saphyr::to_string(answer)?,
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// A table without lines, in kubectl's manner: columns apart by two spaces, never wrapped.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
