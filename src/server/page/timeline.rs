//! A mesh's certificates as bars on a time line: each CA with what it signed, what endpoints serve, and what a plan would make of it.

use std::fmt::{Result, Write};

use crate::cert::{CertFingerprint, Role};
use crate::mesh::MeshCertificate;
use crate::metrics::renewals::EndpointState;
use crate::renewal::{Phase, Renewal};
use crate::server::page::fleet::{Fleet, Row};
use crate::server::page::words::NOT_SEEN;
use crate::server::page::{Day, Escaped};
use crate::time::{DAY, UnixTime, time_left};

/// The stretch of time that is shown. CAs live ten times longer than leaves: their bars run out of the picture.
struct Scale {
    from: UnixTime,
    to: UnixTime,
    now: UnixTime,
    due: UnixTime,
}

/// How far the past and the future are shown at most.
const PAST: i64 = 400 * DAY;
const FUTURE: i64 = 800 * DAY;
/// Ticks on the axis at most; more would run into each other on a phone.
const MOST_TICKS: usize = 4;

pub(super) fn section(out: &mut String, fleet: &Fleet, row: &Row) -> Result {
    let certificates = &row.mesh.certificates;
    out.push_str("<section id=\"certificates\">\n<h2>Certificates</h2>\n");
    if certificates.is_empty() {
        return writeln!(out, "<p class=\"empty\">None can be read.</p>\n</section>");
    }
    let plan = row.renewal.as_deref().filter(|renewal| !renewal.status.phase.is_terminal());
    let scale = Scale::of(certificates, plan, fleet);
    out.push_str("<div class=\"bars\">\n");
    axis(out, &scale)?;
    let mut cas: Vec<&MeshCertificate> = Vec::new();
    for ca in certificates.iter().filter(|found| found.certificate.role == Role::Ca) {
        // The kubeconfig holds a copy of the CA.
        if !cas.iter().any(|known| known.certificate.fingerprint == ca.certificate.fingerprint) {
            cas.push(ca);
        }
    }
    let leaves_of = |signer: Option<CertFingerprint>| {
        let known = move |leaf: &&MeshCertificate, cas: &[&MeshCertificate]| match signer {
            Some(fingerprint) => leaf.signed_by == Some(fingerprint),
            None => !cas.iter().any(|ca| leaf.signed_by == Some(ca.certificate.fingerprint)),
        };
        let cas = cas.clone();
        certificates.iter().filter(|found| found.certificate.role == Role::Leaf).filter(move |leaf| known(leaf, &cas))
    };
    for ca in &cas {
        let name = ca.certificate.subject.to_string();
        writeln!(out, "<h3>Signed by {}</h3>\n<ul>", Escaped(&name))?;
        bar(out, &scale, row, ca, None)?;
        for leaf in leaves_of(Some(ca.certificate.fingerprint)) {
            bar(out, &scale, row, leaf, plan)?;
        }
        out.push_str("</ul>\n");
    }
    if leaves_of(None).next().is_some() {
        out.push_str("<h3>Signed by no CA of this mesh</h3>\n<ul>\n");
        for leaf in leaves_of(None) {
            bar(out, &scale, row, leaf, plan)?;
        }
        out.push_str("</ul>\n");
    }
    endpoints(out, &scale, fleet.endpoints(row))?;
    out.push_str("</div>\n</section>\n");
    Ok(())
}

/// Month names over the bars, and where now is.
fn axis(out: &mut String, scale: &Scale) -> Result {
    out.push_str("<svg class=\"axis\" aria-hidden=\"true\">");
    let now = scale.x(scale.now);
    for (moment, label) in scale.ticks() {
        let x = scale.x(moment);
        write!(out, "<line class=\"grid\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"18\" y2=\"24\"/>")?;
        // It would stand under the word "now".
        if (x - now).abs() > 9.0 && (8.0..92.0).contains(&x) {
            write!(out, "<text x=\"{x:.2}%\" y=\"14\" text-anchor=\"middle\">{label}</text>")?;
        }
    }
    writeln!(
        out,
        "<text class=\"now\" x=\"{now:.2}%\" y=\"14\" text-anchor=\"middle\">now</text><line class=\"now\" x1=\"{now:.2}%\" x2=\"{now:.2}%\" y1=\"18\" y2=\"24\"/></svg>"
    )
}

fn bar(out: &mut String, scale: &Scale, row: &Row, found: &MeshCertificate, renewal: Option<&Renewal>) -> Result {
    let certificate = &found.certificate;
    let end = found.effective_not_after;
    let is_ca = certificate.role == Role::Ca;
    let class = match end {
        end if end <= scale.now => "expired",
        end if end < scale.due => "expiring",
        _ => "ok",
    };
    let secret = row.mesh.secret_name(found.secret_role);
    let key = if &*found.key == "config" { found.position.to_string() } else { found.key.to_string() };
    write!(
        out,
        "<li class=\"bar {class}\"><span class=\"name\"><b>{}</b> <span>{}</span></span><span class=\"end\">{}",
        Escaped(&key),
        Escaped(secret),
        Escaped(&time_left(scale.now, end))
    )?;
    if end < certificate.not_after {
        out.push_str(" by its CA");
    }
    write!(out, " <span>{}</span></span>", Day(end))?;
    scale.open(out)?;
    let (a, b) = (scale.x(certificate.not_before), scale.x(end));
    let shape = if is_ca { "ca" } else { "leaf" };
    write!(
        out,
        "<rect class=\"{shape}\" x=\"{a:.2}%\" y=\"6\" width=\"{:.2}%\" height=\"10\" rx=\"3\"/>",
        (b - a).max(0.6)
    )?;
    if let Some(next) = renewal.and_then(|renewal| next_end(renewal, secret, &found.key)).filter(|next| *next > end) {
        let to = scale.x(next);
        write!(out, "<rect class=\"next\" x=\"{b:.2}%\" y=\"6.5\" width=\"{:.2}%\" height=\"9\" rx=\"3\"/>", to - b)?;
    }
    if end > scale.to {
        out.push_str("<text class=\"on\" x=\"100%\" y=\"15\" dx=\"-3\" text-anchor=\"end\">→</text>");
    }
    out.push_str("</svg></li>\n");
    Ok(())
}

/// What the TLS handshakes with the mesh's endpoints showed.
fn endpoints(out: &mut String, scale: &Scale, served: Option<&[EndpointState]>) -> Result {
    if served.is_some_and(<[_]>::is_empty) {
        return Ok(());
    }
    out.push_str("<h3>Served by endpoints</h3>\n");
    let Some(served) = served else {
        return writeln!(out, "<p class=\"empty\">What they serve is {NOT_SEEN}.</p>");
    };
    out.push_str("<ul>\n");
    for endpoint in served {
        let (class, words) = match (endpoint.not_after, endpoint.stale) {
            (None, _) => ("expired", "no TLS handshake came about"),
            (Some(_), true) => ("expired", "not the stored certificate: it has to restart"),
            (Some(end), false) if end <= scale.now => ("expired", "the stored certificate, which has ended"),
            (Some(end), false) if end < scale.due => ("expiring", "the stored certificate"),
            (Some(_), false) => ("ok", "the stored certificate"),
        };
        write!(
            out,
            "<li class=\"bar {class}\"><span class=\"name\"><b>{}</b> <span>{words}</span></span><span class=\"end\">",
            Escaped(&endpoint.endpoint)
        )?;
        if let Some(end) = endpoint.not_after {
            write!(out, "{} <span>{}</span>", Escaped(&time_left(scale.now, end)), Day(end))?;
        }
        out.push_str("</span>");
        scale.open(out)?;
        if let Some(end) = endpoint.not_after {
            let (a, b) = (scale.x(scale.from), scale.x(end));
            write!(
                out,
                "<line class=\"served\" x1=\"{a:.2}%\" x2=\"{b:.2}%\" y1=\"11\" y2=\"11\"/><circle class=\"served\" cx=\"{b:.2}%\" cy=\"11\" r=\"4\"/>"
            )?;
        }
        out.push_str("</svg></li>\n");
    }
    out.push_str("</ul>\n");
    Ok(())
}

/// When the successor of a leaf ends, as long as it is not in force yet.
fn next_end(renewal: &Renewal, secret: &str, key: &str) -> Option<UnixTime> {
    if renewal.status.committed_at.is_some() || renewal.status.phase >= Phase::Restarting {
        return None;
    }
    let leaves = &renewal.status.plan.as_ref()?.leaves;
    leaves.iter().find(|leaf| leaf.secret == secret && leaf.key == key).map(|leaf| leaf.next_ends_at)
}

impl Scale {
    fn of(certificates: &[MeshCertificate], plan: Option<&Renewal>, fleet: &Fleet) -> Self {
        let now = fleet.now;
        let leaves = || certificates.iter().filter(|found| found.certificate.role == Role::Leaf);
        let first = leaves().map(|leaf| leaf.certificate.not_before).min().unwrap_or(now);
        let planned = plan.and_then(|renewal| renewal.status.plan.as_ref()).map(|plan| plan.ends_at);
        let last = leaves().map(|leaf| leaf.effective_not_after).chain(planned).max().unwrap_or(now);
        let from = first.clamp(now.plus(-PAST), now.plus(-30 * DAY));
        let to = last.clamp(now.plus(60 * DAY), now.plus(FUTURE));
        let margin = from.seconds_until(to) / 25;
        Self { from, to: to.plus(margin), now, due: now.plus(fleet.thresholds.renew_before) }
    }

    /// In per cent of the width.
    fn x(&self, moment: UnixTime) -> f64 {
        let whole = self.from.seconds_until(self.to).max(1) as f64;
        (self.from.seconds_until(moment) as f64 * 100.0 / whole).clamp(0.0, 100.0)
    }

    /// Begins a picture with what all rows have in common: where now is, and until when it is due.
    fn open(&self, out: &mut String) -> Result {
        let (now, due) = (self.x(self.now), self.x(self.due));
        write!(
            out,
            "<svg aria-hidden=\"true\"><rect class=\"due\" x=\"{now:.2}%\" width=\"{:.2}%\" height=\"22\"/><line class=\"now\" x1=\"{now:.2}%\" x2=\"{now:.2}%\" y1=\"0\" y2=\"22\"/>",
            due - now
        )
    }

    /// Beginnings of months, evenly, with their names.
    fn ticks(&self) -> Vec<(UnixTime, String)> {
        let text = self.from.to_string();
        let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<i64>().ok());
        let (Some(year), Some(month)) = (number(0..4), number(5..7)) else { return Vec::new() };
        let months = self.from.seconds_until(self.to) / (30 * DAY);
        let step = [1, 3, 6, 12].into_iter().find(|step| months / step <= MOST_TICKS as i64).unwrap_or(24);
        let first = (year * 12 + month - 1).div_euclid(step) + 1;
        let tick = |count: i64| {
            let index = count * step;
            let (year, month) = (index.div_euclid(12), index.rem_euclid(12));
            let moment = UnixTime::parse_rfc_3339(&format!("{year:04}-{:02}-01T00:00:00Z", month + 1))?;
            Some((moment, format!("{} {year}", MONTHS[month as usize])))
        };
        (first..).map_while(tick).take_while(|(moment, _)| *moment < self.to).take(MOST_TICKS + 1).collect()
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_beginnings_of_months_and_few() {
        let now = UnixTime(1_795_465_260);
        let labels = |from: i64, to: i64| {
            let scale = Scale { from: now.plus(from * DAY), to: now.plus(to * DAY), now, due: now };
            scale.ticks().into_iter().map(|(moment, label)| format!("{label}={moment}")).collect::<Vec<_>>()
        };
        assert_eq!(
            labels(-30, 60),
            ["Nov 2026=2026-11-01T00:00:00Z", "Dec 2026=2026-12-01T00:00:00Z", "Jan 2027=2027-01-01T00:00:00Z"]
        );
        assert_eq!(labels(-340, 400).len(), 4, "every half year");
        assert!(labels(-400, 800).len() <= MOST_TICKS + 1);
    }

    #[test]
    fn moments_out_of_the_picture_stand_at_its_edge() {
        let now = UnixTime(0);
        let scale = Scale { from: now, to: now.plus(100), now, due: now };
        assert_eq!((scale.x(now.plus(-5)), scale.x(now.plus(25)), scale.x(now.plus(1_000))), (0.0, 25.0, 100.0));
    }
}
