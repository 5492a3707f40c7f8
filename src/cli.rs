//! The command line: what can be asked, and the exit codes that answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::Level;

use crate::app::Sources;
use crate::app::process::{self, LogForm};
use crate::command;
use crate::config::{ALL, Duration};
use crate::name::{LABEL, is_label};

pub(crate) use shell::program;
pub use shell::{CompletionsArgs, ManArgs};

mod shell;

/// Watches the certificates of hosted service meshes and tells Prometheus when they end.
#[derive(Debug, Parser)]
#[command(name = "meshcert", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    color: colorchoice_clap::Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: watch all configured clusters, serve metrics, and renew if that is one of its roles.
    Serve(ServeArgs),
    /// Show everything at work on an embedded Kubernetes API with generated meshes.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// List the hosted meshes as their Secrets show them, worst first.
    ///
    /// Where none is found the exit code is 0 and the answer names the namespaces looked in: one that does not exist is like an empty one, for whether it exists takes a
    /// right that meshcert does without. Others are chosen with -n, or in the configuration, which `meshcert config check` checks.
    Status(StatusArgs),
    /// Read certificates offline: PEM, DER, kubeconfigs, Secret manifests.
    ///
    /// Of a manifest the Secrets that are not watched either are skipped (Helm releases, meshcert's own backups, …), and standard error says how many.
    Check(CheckArgs),
    /// Say why a Secret is counted or not, entry by entry.
    Explain(ExplainArgs),
    /// Show what a renewal of a mesh would do, or why it would be refused; writes nothing.
    Plan(PlanArgs),
    /// Ask for the renewal of a mesh, or for a failed one to be tried again at once.
    Renew(RenewArgs),
    /// Agree to the plan of the renewal that waits for it.
    ///
    /// With --digest to the plan that was read and to no other: where another one waits by now, that one is shown, nothing is approved, and the exit code is 1. Without it the
    /// plan is shown and whoever sits at the terminal is asked; without a terminal nothing is approved, so a script names the digest.
    Approve(ApproveArgs),
    /// List the renewals of a mesh, with the journal of the newest.
    History(HistoryArgs),
    /// Put back the certificates that were in force before the newest renewal, and pause the mesh.
    Rollback(RollbackArgs),
    /// Print the manual procedure for a mesh as a shell script, for the day on which meshcert is down.
    Runbook(MeshArgs),
    /// Print the CustomResourceDefinition of CertificateRenewal, for `kubectl apply -f -`.
    Crd,
    /// Work with the configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completions for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write that of every command into a folder.
    Man(ManArgs),
    /// Before and after meshcert is removed.
    #[command(subcommand)]
    Uninstall(UninstallCommand),
}

/// How to reach the clusters.
#[derive(Debug, Clone, Args)]
pub struct Connect {
    /// Configuration file; without one: the current kubeconfig or the pod's own cluster, namespace istio-system.
    #[arg(long, value_name = "FILE", env = "MESHCERT_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Kubeconfig of the only cluster to look at; overrides the configuration's clusters.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; default: its current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of hosted meshes, repeatable; `*` for all. Overrides the configuration's.
    #[arg(long = "namespace", short = 'n', value_name = "NAME", value_parser = namespace)]
    pub namespaces: Vec<String>,
}

fn namespace(text: &str) -> Result<String, String> {
    if text == ALL || is_label(text) { Ok(text.to_owned()) } else { Err(format!("a namespace's name is {LABEL}")) }
}

/// What is logged, and how; to standard error.
#[derive(Debug, Clone, Copy, Args)]
pub struct Logging {
    /// Form of the log lines.
    #[arg(long, value_enum, default_value_t = LogForm::Plain)]
    pub log_format: LogForm,
    /// Least severity that is logged.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

/// Severity of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// Something is off.
    Warn,
    /// What the daemon does.
    Info,
    /// How it does it.
    Debug,
    /// Everything.
    Trace,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Clusters.
    #[command(flatten)]
    pub connect: Connect,
    /// Address of /metrics, the health endpoints and the page.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9794")]
    pub listen: SocketAddr,
    /// What this process does: `observe` watches, `webhook` takes notifications (alone it watches nothing), `act` watches, renews and restarts.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "observe")]
    pub roles: Vec<Role>,
    /// Logs.
    #[command(flatten)]
    pub logging: Logging,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Watches certificates and serves metrics; writes nothing.
    Observe,
    /// Takes Alertmanager's notifications and asks for renewals; alone it needs no right on Secrets.
    Webhook,
    /// Renews and restarts, as policy.mode allows.
    Act,
}

/// Arguments of `demo`.
#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// What state the meshes are in.
    #[arg(long, value_enum, default_value_t = crate::demo::Scenario::Mixed)]
    pub scenario: crate::demo::Scenario,
    /// Number of meshes; default: as many as the scenario tells apart.
    #[arg(long, value_name = "N")]
    pub meshes: Option<usize>,
    /// Address of /metrics, the health endpoints and the page.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9794")]
    pub listen: SocketAddr,
    /// Address of the embedded Kubernetes API, for kubectl; loopback only.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub api_listen: SocketAddr,
    /// Write a kubeconfig for the embedded API to this file and keep it.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig_out: Option<PathBuf>,
    /// What is done about meshes that end soon.
    #[arg(long, value_parser = mode, default_value = "auto", value_name = "observe|approve|auto")]
    pub mode: crate::policy::Mode,
    /// What makes the new certificates: meshcert in process, or kubeadm in a Job as the vendor documents it.
    #[arg(long, value_parser = engine, default_value = "native", value_name = "native|job")]
    pub engine: crate::policy::Engine,
    /// Bearer token of the webhook; default: a random one, which is printed.
    #[arg(long, value_name = "TOKEN")]
    pub webhook_token: Option<String>,
    /// Only the embedded cluster, so that `meshcert serve` runs beside it.
    #[arg(long)]
    pub api_only: bool,
    /// Logs.
    #[command(flatten)]
    pub logging: Logging,
}

#[cfg(feature = "demo")]
fn mode(text: &str) -> Result<crate::policy::Mode, String> {
    serde_json::from_value(text.into()).map_err(|_| "observe, approve or auto".to_owned())
}

#[cfg(feature = "demo")]
fn engine(text: &str) -> Result<crate::policy::Engine, String> {
    serde_json::from_value(text.into()).map_err(|_| "native or job".to_owned())
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Clusters.
    #[command(flatten)]
    pub connect: Connect,
    /// Go on, and show the table anew whenever it changes.
    #[arg(long, short = 'w', conflicts_with = "output")]
    pub watch: bool,
    /// Form of the answer.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files to read, `-` for standard input; default: standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A certificate with less time left than this is expiring (exit code 3).
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    pub expiring_within: Duration,
    /// Form of the answer.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The Secret: NAME (in the first namespace looked at) or NAMESPACE/NAME.
    #[arg(value_name = "SECRET")]
    pub secret: String,
    /// Clusters.
    #[command(flatten)]
    pub connect: Connect,
    /// Form of the answer.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Which mesh.
#[derive(Debug, Args)]
pub struct MeshArgs {
    /// The mesh's id.
    #[arg(value_name = "MESH")]
    pub mesh: String,
    /// Clusters.
    #[command(flatten)]
    pub connect: Connect,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Plan although nothing ends within policy.renewBefore.
    #[arg(long)]
    pub force: bool,
    /// Form of the answer.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// The mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Only show the plan, or why it would be refused; exit code 1 then.
    #[arg(long)]
    pub dry_run: bool,
    /// Renew although nothing ends within policy.renewBefore.
    #[arg(long)]
    pub force: bool,
    /// Show the progress until the end; exit code 1 if it does not end well.
    #[arg(long)]
    pub wait: bool,
}

/// Arguments of `approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Digest of the plan that was read, as `meshcert plan` prints it; needed where there is no terminal to ask on.
    #[arg(long, value_name = "DIGEST", value_parser = plan_digest)]
    pub digest: Option<String>,
    /// Show the progress until the end.
    #[arg(long)]
    pub wait: bool,
}

fn plan_digest(text: &str) -> Result<String, String> {
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if text.strip_prefix("sha256:").is_some_and(is_hex) {
        return Ok(text.to_owned());
    }
    Err("a plan's digest is sha256: and 64 hexadecimal digits".to_owned())
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Form of the answer.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The mesh.
    #[command(flatten)]
    pub mesh: MeshArgs,
    /// Show the progress until the end.
    #[arg(long)]
    pub wait: bool,
}

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON schema of the configuration file.
    Schema,
    /// Check a configuration file.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Subcommands of `uninstall`.
#[derive(Debug, Subcommand)]
pub enum UninstallCommand {
    /// Before: exit code 1 while a renewal is under way that nobody would finish.
    Check(Connect),
    /// After: remove the Leases. Renewals and backups stay.
    Clean(Connect),
}

/// Form of a command's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// How a command ended, beside an error (exit code 1) and wrong usage (2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1, after what could be said has been said.
    Incomplete,
    /// Exit code 3: a certificate is within the expiring time.
    Expiring,
    /// Exit code 4: a certificate has ended.
    Expired,
}

impl From<Connect> for Sources {
    fn from(connect: Connect) -> Self {
        let Connect { config, kubeconfig, context, namespaces } = connect;
        Self { config, kubeconfig, context, namespaces }
    }
}

impl Logging {
    /// Starts logging.
    pub fn start(self) {
        let level = match self.log_level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        };
        process::log(self.log_format, level);
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fine => 0,
            Outcome::Incomplete => 1,
            Outcome::Expiring => 3,
            Outcome::Expired => 4,
        }
        .into()
    }
}

impl Cli {
    /// Where the command looks, for what is suggested after an error.
    pub fn sources(&self) -> Sources {
        let connect = match &self.command {
            Command::Serve(ServeArgs { connect, .. })
            | Command::Status(StatusArgs { connect, .. })
            | Command::Explain(ExplainArgs { connect, .. })
            | Command::Runbook(MeshArgs { connect, .. })
            | Command::Plan(PlanArgs { mesh: MeshArgs { connect, .. }, .. })
            | Command::Renew(RenewArgs { mesh: MeshArgs { connect, .. }, .. })
            | Command::Approve(ApproveArgs { mesh: MeshArgs { connect, .. }, .. })
            | Command::History(HistoryArgs { mesh: MeshArgs { connect, .. }, .. })
            | Command::Rollback(RollbackArgs { mesh: MeshArgs { connect, .. }, .. })
            | Command::Uninstall(UninstallCommand::Check(connect) | UninstallCommand::Clean(connect)) => connect,
            #[cfg(feature = "demo")]
            Command::Demo(_) => return Sources::default(),
            Command::Check(_) | Command::Crd | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                return Sources::default();
            }
        };
        connect.clone().into()
    }

    /// Runs the command that was asked for.
    ///
    /// # Errors
    /// What kept it from answering, with its chain of causes.
    pub fn run(self) -> anyhow::Result<Outcome> {
        self.color.write_global();
        match self.command {
            Command::Serve(args) => command::serve::run(args),
            #[cfg(feature = "demo")]
            Command::Demo(args) => command::demo::run(args),
            Command::Status(args) => command::status::run(args),
            Command::Check(args) => command::check::run(args),
            Command::Explain(args) => command::explain::run(args),
            Command::Plan(args) => command::renew::plan(args),
            Command::Renew(args) => command::renew::renew(args),
            Command::Approve(args) => command::renew::approve(args),
            Command::History(args) => command::history::run(args),
            Command::Rollback(args) => command::renew::rollback(args),
            Command::Runbook(args) => command::runbook::run(args),
            Command::Crd => command::crd::run(),
            Command::Config(command) => command::config::run(command),
            Command::Completions(args) => command::shell::completions(args),
            Command::Man(args) => command::shell::man(args),
            Command::Uninstall(command) => command::uninstall::run(command),
        }
    }
}
