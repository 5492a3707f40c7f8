//! `meshcert demo`: an embedded cluster with hosted meshes, and the daemon on top.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::app::{self, Sources, process};
use crate::cli::{DemoArgs, Outcome};
use crate::clock::SystemClock;
use crate::demo::{self, Options};

/// Between two steps of a rollout: slow enough to be watched.
const PACE: Duration = Duration::from_millis(300);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be listened on, or the kubeconfig cannot be written.
pub fn run(args: DemoArgs) -> anyhow::Result<Outcome> {
    let DemoArgs { scenario, meshes, listen, api_listen, kubeconfig_out, logging } = args;
    logging.start();
    process::runtime()?.block_on(async {
        let signals = process::Signals::new()?;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))?;
        let address = listener.local_addr()?;
        let options = Options { scenario, meshes, listen: api_listen, pace: PACE, clock: Arc::new(SystemClock) };
        let demo = demo::start(options).await?;
        let kubeconfig = Kubeconfig::write(kubeconfig_out, &demo.kubeconfig())?;
        let path = kubeconfig.path.display();
        let mut stdout = io::stdout();
        writeln!(stdout, "meshcert: {} hosted meshes in an embedded cluster", demo.meshes)?;
        writeln!(stdout, "meshcert: page on http://{address}/")?;
        writeln!(stdout, "meshcert: metrics on http://{address}/metrics")?;
        writeln!(stdout, "meshcert: kubernetes API on http://{}", demo.address)?;
        writeln!(stdout, "meshcert: try  kubectl --kubeconfig {path} get secrets")?;
        writeln!(stdout, "meshcert: or   meshcert status --kubeconfig {path}")?;
        stdout.flush()?;
        let sources = Sources { kubeconfig: Some(kubeconfig.path.clone()), ..Sources::default() };
        app::serve(sources, listener, signals.stop(), |_| {}).await
    })?;
    Ok(Outcome::Fine)
}

/// The kubeconfig file; one that nobody asked for is removed at the end.
struct Kubeconfig {
    path: PathBuf,
    temporary: bool,
}

impl Kubeconfig {
    fn write(asked: Option<PathBuf>, text: &str) -> anyhow::Result<Self> {
        let temporary = asked.is_none();
        let own = || std::env::temp_dir().join(format!("meshcert-demo-{}.kubeconfig", std::process::id()));
        let path = asked.unwrap_or_else(own);
        std::fs::write(&path, text).with_context(|| format!("cannot write the kubeconfig {}", path.display()))?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        if self.temporary {
            // Whoever removed it before did the same.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
