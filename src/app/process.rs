//! What a process needs around the daemon: a runtime, logs, and the signals that end it.

use std::io;

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Level, info};
use tracing_subscriber::EnvFilter;

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogForm {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// Sends logs to standard error, from `level` on.
pub fn log(form: LogForm, level: Level) {
    // Of a failed request the client library logs what we say ourselves, and with it what an exec plugin printed: a token, perhaps.
    let filter = EnvFilter::new(format!("{level},kube_client::client::builder=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A second initialisation, as in tests, keeps the first.
    let _ = match form {
        LogForm::Plain => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogForm::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Does this in a runtime of its own, and ends with it: whatever hangs beside it is not waited for.
///
/// # Errors
/// Threads cannot be started, or the work's own.
pub fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start the runtime's threads")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal; a second one ends the process at once, with the exit code that shells give for it.
    pub async fn stop(mut self) {
        self.next().await;
        info!("asked to stop; a second signal ends at once");
        tokio::spawn(async move {
            let code = 128 + self.next().await;
            std::process::exit(code);
        });
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}
