//! Processes of this bench: started, waited for, measured, and ended whatever happens.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use axum::serve::ListenerExt;

use crate::client::Client;

/// The role of this program in which it sends a file from memory.
pub(crate) const STATIC: &str = "send-from-memory";
/// Where it listens then.
const ADDRESS: &str = "MESHCERT_BENCH_ADDRESS";
/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Clock ticks a second, in which Linux tells processor time on every architecture that Rust has (`sysconf(_SC_CLK_TCK)`).
const TICKS: u32 = 100;

/// A child process that listens; killed when dropped, also by a panic.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    pub(crate) fn start(program: &Path, arguments: &[String], address: SocketAddr) -> Self {
        Self::of(Command::new(program).args(arguments), address)
    }

    pub(crate) fn of(command: &mut Command, address: SocketAddr) -> Self {
        Self { child: command.stdout(Stdio::null()).spawn().unwrap(), address }
    }

    /// Its standard error, which was piped.
    pub(crate) fn log(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Starts this program in another role, and waits until it listens.
    pub(crate) fn start_with(role: &str, path: &Path) -> Self {
        let (program, address) = (std::env::current_exe().unwrap(), free_address());
        let child = Command::new(program).arg(role).arg(path).env(ADDRESS, address.to_string()).spawn().unwrap();
        let process = Self { child, address };
        process.wait_until(|| Client::connect(address));
        process
    }

    /// Looks every millisecond.
    pub(crate) fn wait_until<T>(&self, mut done: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(result) = done() {
                return result;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("process {} is not where it should be after {PATIENCE:?}", self.child.id());
    }

    /// Processor time since the start, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may hold anything; utime and stime are fields 14 and 15 (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = |index: usize| fields[index - 3].parse::<u32>().unwrap();
        Duration::from_secs(1) * (ticks(14) + ticks(15)) / TICKS
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it ever was.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address on which nothing listens.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The yardstick of scrapes: sends a file from memory, as compressed metrics.
pub(crate) fn fixed(file: &Path) -> axum::Router {
    let body = axum::body::Bytes::from(std::fs::read(file).unwrap());
    let head =
        [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8"), ("content-encoding", "gzip")];
    axum::Router::new().route("/metrics", axum::routing::get(async move || (head, body.clone())))
}

/// Serves, in a process that [`Process::start_with`] started, until it is killed.
pub(crate) fn serve(router: axum::Router) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(std::env::var(ADDRESS).unwrap()).await.unwrap();
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, router).await.unwrap();
    });
}
