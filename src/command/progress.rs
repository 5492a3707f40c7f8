//! The progress of a renewal for whoever waits: a line for each phase, and below them a bar where standard error is a terminal.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::command::Tone;
use crate::renewal::Phase;

/// Between two pictures of the bar.
const TICK: Duration = Duration::from_millis(100);
/// As wide as the longest phase.
const PHASE: usize = 17;

/// Ends its bar when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins to show.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new(Phase::Succeeded as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {msg} {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Says where the renewal is now, and why.
    pub(super) fn say(&self, phase: Phase, message: &str) -> anyhow::Result<()> {
        let name = tone(phase).paint(&format!("{:<PHASE$}", phase.as_str()));
        let line = format!("{name} {message}\n");
        self.0.suspend(|| super::say(&line))?;
        self.0.set_position(phase as u64);
        self.0.set_message(phase.as_str());
        Ok(())
    }

    /// Says something on standard error, above the bar.
    pub(super) fn warn(&self, message: &str) -> anyhow::Result<()> {
        Ok(self.0.suspend(|| writeln!(std::io::stderr(), "meshcert: {message}"))?)
    }

    /// Ends the bar and names the next command on standard error.
    pub(super) fn advise(&self, command: &str) -> anyhow::Result<()> {
        self.0.finish_and_clear();
        Ok(writeln!(std::io::stderr(), "meshcert: try  {command}")?)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How a phase is meant.
pub(super) fn tone(phase: Phase) -> Tone {
    match phase {
        Phase::Succeeded => Tone::Good,
        Phase::Failed | Phase::Refused | Phase::RolledBack => Tone::Bad,
        Phase::Pending | Phase::AwaitingApproval => Tone::Warning,
        Phase::Superseded => Tone::Plain,
        _ => Tone::Strong,
    }
}
