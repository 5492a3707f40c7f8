//! The `meshcert` command.

use std::io::Write;
use std::process::ExitCode;

use meshcert::cli::Cli;
use meshcert::command::advice;

fn main() -> ExitCode {
    let cli = Cli::read();
    let sources = cli.sources();
    match cli.run() {
        Ok(outcome) => outcome.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell if standard error is closed too.
            let _ = writeln!(std::io::stderr(), "meshcert: {error:#}");
            if let Some(next) = advice::next_command(&error, &sources) {
                let _ = writeln!(std::io::stderr(), "meshcert: try  {next}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whoever read the answer had enough of it (`meshcert status | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
