//! The addresses on which the daemon listens, and their TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Config, TlsConfig};
use crate::metrics::Metrics;
use crate::metrics::listeners::Listener;
use crate::server::tls::{Tls, TlsFiles};
use crate::server::{self, App, Door, Limits};

/// The main address, and the webhook's where it has one of its own.
pub(super) struct Doors {
    app: Arc<App>,
    shutdown: CancellationToken,
    main: JoinHandle<()>,
    main_tls: Arc<Tls>,
    webhook: Option<Own>,
    webhook_tls: Arc<Tls>,
}

/// The webhook's own address.
struct Own {
    /// As configured; the port may be 0.
    listen: SocketAddr,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Doors {
    /// Answers on the main address, and on the webhook's if this process has it.
    ///
    /// # Errors
    /// An address or a file cannot be used.
    pub(super) async fn open(
        app: &Arc<App>,
        metrics: &Metrics,
        listener: TcpListener,
        config: &Config,
        webhook: bool,
    ) -> anyhow::Result<Self> {
        let tls = |listener| Tls::new(listener, Arc::clone(metrics.listeners()));
        let (main_tls, webhook_tls) = (tls(Listener::Main), tls(Listener::Webhook));
        let shutdown = CancellationToken::new();
        main_tls.apply(main_tls.prepare(config.tls.as_ref().map(files))?);
        let door = Door { listener, tls: Some(Arc::clone(&main_tls)) };
        let main = server::serve(door, server::router(Arc::clone(app)), Limits::default(), shutdown.clone());
        let main = tokio::spawn(main);
        let mut doors = Self { app: Arc::clone(app), shutdown, main, main_tls, webhook: None, webhook_tls };
        doors.set(config, webhook).await?;
        Ok(doors)
    }

    /// Takes a changed configuration; `webhook`: whether this process has that role.
    ///
    /// # Errors
    /// An address or a file cannot be used; nothing has changed then.
    pub(super) async fn set(&mut self, config: &Config, webhook: bool) -> anyhow::Result<()> {
        let main_tls = config.tls.as_ref();
        let own = config.webhook.as_ref().filter(|_| webhook).and_then(|webhook| Some((webhook.listen?, webhook)));
        let main = self.main_tls.prepare(main_tls.map(files))?;
        let tls = self.webhook_tls.prepare(own.and_then(|(_, webhook)| webhook.tls(main_tls)).map(files))?;
        let listen = own.map(|(listen, _)| listen);
        let stays = self.webhook.as_ref().map(|own| own.listen) == listen;
        let listener = match listen {
            Some(listen) if !stays => Some((listen, bind(listen).await?)),
            _ => None,
        };
        self.main_tls.apply(main);
        // Before the address opens: it never does so with less than is configured for it.
        self.webhook_tls.apply(tls);
        if stays {
            return Ok(());
        }
        if let Some(former) = self.webhook.take() {
            info!(address = %former.address, "the webhook no longer listens here");
            former.stop.cancel();
        }
        self.webhook = listener.map(|(listen, (address, listener))| {
            info!(%address, "the webhook listens");
            let stop = self.shutdown.child_token();
            let door = Door { listener, tls: Some(Arc::clone(&self.webhook_tls)) };
            let router = server::webhook_router(Arc::clone(&self.app));
            let task = tokio::spawn(server::serve(door, router, Limits::default(), stop.clone()));
            Own { listen, address, stop, task }
        });
        Ok(())
    }

    /// Takes changed certificates; what cannot be used is said, and the former ones stay.
    pub(super) fn reload(&self) {
        for (name, tls) in [("main", &self.main_tls), ("webhook", &self.webhook_tls)] {
            match tls.reload() {
                Ok(false) => {}
                Ok(true) => info!(listener = name, "certificates reloaded"),
                Err(why) => {
                    let error = format!("{:#}", anyhow::Error::new(why));
                    error!(listener = name, error, "the changed certificates are refused, the former stay in force");
                }
            }
        }
    }

    /// Where the webhook's own address is.
    pub(super) fn webhook(&self) -> Option<SocketAddr> {
        self.webhook.as_ref().map(|own| own.address)
    }

    /// Accepts nothing more and lets requests in progress end.
    ///
    /// # Errors
    /// A server's task panicked.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        if let Some(own) = self.webhook {
            own.task.await.context("the webhook's server ended")?;
        }
        self.main.await.context("the server's task ended")
    }
}

async fn bind(listen: SocketAddr) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {listen}; choose another address in webhook.listen"))?;
    Ok((listener.local_addr()?, listener))
}

fn files(config: &TlsConfig) -> TlsFiles {
    let TlsConfig { cert_file, key_file, client_ca_file } = config.clone();
    TlsFiles { certificate: cert_file, key: key_file, client_ca: client_ca_file }
}
