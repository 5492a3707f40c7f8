//! `meshcert serve`: the daemon.

use anyhow::Context;
use tokio::net::TcpListener;
use tracing::info;

use crate::app::{self, process};
use crate::cli::{Outcome, ServeArgs};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration cannot be used, the address cannot be listened on, or an essential task ended.
pub fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    let ServeArgs { connect, listen, logging } = args;
    logging.start();
    process::runtime()?.block_on(async {
        let signals = process::Signals::new()?;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        app::serve(connect.into(), listener, signals.stop(), |_| {
            info!(%address, version = env!("CARGO_PKG_VERSION"), "meshcert listens");
        })
        .await
    })?;
    Ok(Outcome::Fine)
}
