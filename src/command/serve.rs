//! `meshcert serve`: the daemon.

use anyhow::Context;
use tokio::net::TcpListener;
use tracing::info;

use crate::app::acting::Roles;
use crate::app::{self, process};
use crate::cli::{Outcome, Role, ServeArgs};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration cannot be used, the address cannot be listened on, or an essential task ended.
pub fn run(args: ServeArgs) -> anyhow::Result<Outcome> {
    let ServeArgs { connect, listen, roles, logging } = args;
    let roles = roles_of(&roles);
    logging.start();
    process::run(async {
        let signals = process::Signals::new()?;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
        let address = listener.local_addr()?;
        app::serve(connect.into(), roles, listener, signals.stop(), |_| {
            info!(%address, version = env!("CARGO_PKG_VERSION"), "meshcert listens");
        })
        .await
    })?;
    Ok(Outcome::Fine)
}

fn roles_of(roles: &[Role]) -> Roles {
    let has = |role| roles.contains(&role);
    Roles { observe: has(Role::Observe), webhook: has(Role::Webhook), act: has(Role::Act), ..Roles::OBSERVE }
}
