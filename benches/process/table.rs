//! The printed table: what was measured, beside what, and whether the target holds.

use std::time::Duration;

pub(crate) struct Table {
    title: String,
    rows: Vec<[String; 5]>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: vec![] }
    }

    /// A time beside its yardstick; the target is a multiple of it, infinity for none.
    pub(crate) fn ratio(&mut self, what: &str, ours: Duration, beside: &str, yardstick: Duration, target: f64) {
        let ratio = ours.as_secs_f64() / yardstick.as_secs_f64();
        self.compared(what, milliseconds(ours), format!("{} ({beside})", milliseconds(yardstick)), ratio, target);
    }

    /// A size beside its yardstick, likewise.
    pub(crate) fn sizes(&mut self, what: &str, ours: u64, beside: &str, yardstick: u64, target: f64) {
        let ratio = ours as f64 / yardstick as f64;
        self.compared(what, bytes(ours), format!("{} ({beside})", bytes(yardstick)), ratio, target);
    }

    fn compared(&mut self, what: &str, ours: String, yardstick: String, ratio: f64, target: f64) {
        let target =
            if target.is_finite() { format!("≤ {target} x: {}", verdict(ratio <= target)) } else { String::new() };
        let ratio = if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") };
        self.rows.push([what.to_owned(), ours, yardstick, ratio, target]);
    }

    /// Bytes that have a bound, or none.
    pub(crate) fn bound(&mut self, what: &str, size: u64, most: Option<u64>) {
        let target = most.map(|most| format!("≤ {}: {}", bytes(most), verdict(size <= most))).unwrap_or_default();
        self.rows.push([what.to_owned(), bytes(size), String::new(), String::new(), target]);
    }

    pub(crate) fn plain(&mut self, what: &str, ours: String) {
        self.rows.push([what.to_owned(), ours, String::new(), String::new(), String::new()]);
    }

    /// Prints Markdown, as it stands in the document.
    pub(crate) fn print(&self) {
        println!("### {}\n", self.title);
        println!("| measured | meshcert | yardstick | ratio | target |\n|---|---|---|---|---|");
        for [what, ours, yardstick, ratio, target] in &self.rows {
            println!("| {what} | {ours} | {yardstick} | {ratio} | {target} |");
        }
        println!();
    }
}

pub(crate) fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "missed" }
}

pub(crate) fn median(times: &mut [Duration]) -> Duration {
    percentile(times, 50)
}

pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

pub(crate) fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 10.0 { format!("{milliseconds:.3} ms") } else { format!("{milliseconds:.0} ms") }
}

pub(crate) fn bytes(count: u64) -> String {
    format!("{:.2} MB", count as f64 / 1e6)
}
