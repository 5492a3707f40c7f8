//! A renewal: what is asked of a person, its steps, its plan with old and new ends.

use std::fmt::{Result, Write};

use crate::plan::{Plan, PlannedLeaf, PlannedRestart};
use crate::renewal::{Phase, Renewal, StepRecord, Trigger};
use crate::server::page::fleet::{Fleet, Row};
use crate::server::page::words::{self, Tone};
use crate::server::page::{Day, Escaped, Moment};
use crate::server::renewals::approve_command;
use crate::time::{DAY, UnixTime, in_words};

/// The way of a renewal that goes well; approval is asked for in mode `approve` only.
const WAY: [Phase; 9] = [
    Phase::Pending,
    Phase::Preflight,
    Phase::AwaitingApproval,
    Phase::BackingUp,
    Phase::Staging,
    Phase::Auditing,
    Phase::Committing,
    Phase::Restarting,
    Phase::Verifying,
];
/// Earlier renewals of the mesh that are listed.
const MOST_EARLIER: usize = 10;
/// Renewals of its namespace that cannot be read.
const MOST_UNREADABLE: usize = 3;

pub(super) fn section(out: &mut String, fleet: &Fleet, row: &Row) -> Result {
    let namespace = &*row.mesh.key.namespace;
    let obstacle = fleet.view.obstacle(&row.cluster, namespace);
    out.push_str("<section id=\"renewal\">\n<h2>Renewal</h2>\n");
    let not_readable = |out: &mut String, what: &str, why: &str| {
        writeln!(
            out,
            "<p class=\"doing wait\"><b>{what} cannot be read</b> <span>{}</span> <a href=\"{}\">Runbook MeshcertNotActing</a></p>",
            Escaped(why),
            row.runbook_link("MeshcertNotActing")
        )
    };
    if let Some(obstacle) = obstacle {
        not_readable(out, "Renewals", obstacle)?;
    }
    let mut unreadable = fleet.view.unreadable(&row.cluster, namespace).peekable();
    let is_known = obstacle.is_none() && unreadable.peek().is_none();
    for one in unreadable.take(MOST_UNREADABLE) {
        not_readable(out, "A renewal", &format!("It may be of this mesh: {one}"))?;
    }
    match &row.renewal {
        None if is_known => out.push_str("<p class=\"empty\">meshcert has not renewed this mesh.</p>\n"),
        None => {}
        Some(renewal) => {
            one(out, renewal, row, fleet.now)?;
            earlier(out, renewal, row, fleet)?;
        }
    }
    out.push_str("</section>\n");
    Ok(())
}

fn one(out: &mut String, renewal: &Renewal, row: &Row, now: UnixTime) -> Result {
    let asked_by = match renewal.spec.trigger {
        Trigger::Alert => "an alert",
        Trigger::Schedule => "the clock",
        Trigger::Manual => "a person",
    };
    write!(out, "<p class=\"facts\"><span class=\"code\">{}</span> asked for by {asked_by}", Escaped(&renewal.name))?;
    if let Some(created) = renewal.created {
        write!(out, " {}", Moment(created))?;
    }
    if renewal.status.attempt > 1 {
        write!(out, ", attempt {}", renewal.status.attempt)?;
    }
    for (is, words) in [
        (renewal.forced(), "forced"),
        (renewal.spec.force && !renewal.forced(), "created with force, which does not count"),
        (renewal.wants_back(), "to be rolled back"),
        (renewal.spec.rollback && !renewal.wants_back(), "created with rollback, which does not count"),
        (renewal.paused, "paused"),
        (renewal.deleting, "being deleted"),
    ] {
        if is {
            write!(out, ", {words}")?;
        }
    }
    out.push_str("</p>\n");
    if let Some(command) = approve_command(renewal) {
        writeln!(
            out,
            "<div class=\"approve\"><p>Agrees to exactly the plan below, on cluster <b>{}</b>:</p>\n<pre id=\"approve\" tabindex=\"0\" aria-label=\"Command that approves the plan\"><code>{}</code></pre>\n<p><button id=\"copy\" type=\"button\" class=\"scripted\" data-copy=\"approve\">Copy</button> <span>or <code>meshcert approve {} -n {} --digest {}</code>, which shows the plan first</span></p></div>",
            Escaped(&row.cluster),
            Escaped(&command),
            Escaped(&renewal.spec.mesh_id),
            Escaped(&renewal.namespace),
            Escaped(renewal.status.plan.as_ref().map_or("", |plan| &plan.digest))
        )?;
    }
    steps(out, renewal, now)?;
    if let Some(plan) = &renewal.status.plan {
        self::plan(out, plan, renewal)?;
    }
    conditions(out, renewal)
}

/// The steps of the present attempt, done and to come; earlier attempts below.
fn steps(out: &mut String, renewal: &Renewal, now: UnixTime) -> Result {
    let status = &renewal.status;
    let (present, past): (Vec<&StepRecord>, Vec<&StepRecord>) =
        status.steps.iter().partition(|step| step.attempt == status.attempt);
    out.push_str("<h3>Steps</h3>\n<ol class=\"steps\">\n");
    for record in &present {
        let took = |seconds: i64| if seconds < 1 { "at once".to_owned() } else { in_words(seconds) };
        match record.finished_at {
            Some(end) => {
                step(out, "done", "done", record.name, &took(record.started_at.seconds_until(end)), &record.result)?;
            }
            None => {
                let since = format!("for {}", in_words(record.started_at.seconds_until(now).max(0)));
                step(out, "now", "now", record.name, &since, &status.message)?;
            }
        }
    }
    if status.phase.is_terminal() {
        let (class, mark) = match status.phase {
            Phase::Succeeded => ("done good", "done"),
            Phase::Superseded => ("done", "over"),
            _ => ("bad", "ended"),
        };
        let at = status.phase_since.map(|at| Moment(at).to_string()).unwrap_or_default();
        write!(
            out,
            "<li class=\"{class}\"><b>{}</b><span class=\"quiet\"> ({mark})</span> <span class=\"took\">{at}</span>",
            words::title(status.phase)
        )?;
        writeln!(out, "<span class=\"result\">{}</span></li>", Escaped(&status.message))?;
    } else {
        let asks = status.phase == Phase::AwaitingApproval;
        for phase in
            WAY.into_iter().filter(|phase| *phase > status.phase && (asks || *phase != Phase::AwaitingApproval))
        {
            writeln!(
                out,
                "<li class=\"todo\"><b>{}</b><span class=\"quiet\"> (to come)</span></li>",
                words::title(phase)
            )?;
        }
    }
    out.push_str("</ol>\n");
    if !past.is_empty() {
        out.push_str("<details id=\"attempts\"><summary id=\"attempts-summary\">Earlier attempts</summary>\n<ol class=\"steps\">\n");
        for record in past {
            let when = Moment(record.started_at).to_string();
            writeln!(
                out,
                "<li class=\"done\"><b>{}</b> <span class=\"took\">attempt {}, {when}</span><span class=\"result\">{}</span></li>",
                words::title(record.name),
                record.attempt,
                Escaped(&record.result)
            )?;
        }
        out.push_str("</ol></details>\n");
    }
    Ok(())
}

fn step(out: &mut String, class: &str, mark: &str, phase: Phase, took: &str, result: &str) -> Result {
    writeln!(
        out,
        "<li class=\"{class}\"><b>{}</b><span class=\"quiet\"> ({mark})</span> <span class=\"took\">{}</span><span class=\"result\">{}</span></li>",
        words::title(phase),
        Escaped(took),
        Escaped(result)
    )
}

/// Open while somebody has to agree to it.
fn plan(out: &mut String, plan: &Plan, renewal: &Renewal) -> Result {
    let Plan { digest, leaves, restarts, ends_at, .. } = plan;
    let open = if renewal.status.phase == Phase::AwaitingApproval { " open" } else { "" };
    writeln!(
        out,
        "<details id=\"plan\" class=\"plan\"{open}><summary id=\"plan-summary\"><h3>Plan</h3></summary>\n<p class=\"facts\">{} certificates are made anew under the same CAs by the engine {}; then the first end is {}.</p>\n<ul class=\"diff\">",
        leaves.len(),
        Escaped(&plan.engine_in_words()),
        Moment(*ends_at)
    )?;
    for PlannedLeaf { secret, key, ends_at, next_ends_at, .. } in leaves {
        let days = ends_at.seconds_until(*next_ends_at) / DAY;
        let gain = if days > 0 { format!("+{days} days") } else { "kept as it is".to_owned() };
        writeln!(
            out,
            "<li><b>{}</b> <span>{}</span> <span class=\"change\"><span class=\"quiet\">ends </span><del>{}</del> <span aria-hidden=\"true\">→</span><span class=\"quiet\"> then </span> <ins>{}</ins> <i>{gain}</i></span></li>",
            Escaped(key),
            Escaped(secret),
            Day(*ends_at),
            Day(*next_ends_at)
        )?;
    }
    out.push_str("</ul>\n<details id=\"leaves\"><summary id=\"leaves-summary\">What stays and what is new in each</summary>\n<ul>");
    leaves.iter().try_for_each(|leaf| kept(out, leaf))?;
    out.push_str("</ul></details>\n");
    if !restarts.is_empty() {
        out.push_str("<h3>Restarts, in this order</h3>\n<ol class=\"restarts\">\n");
        for PlannedRestart { kind, name, pods, outage, .. } in restarts {
            let pods_word = if *pods == 1 { "pod" } else { "pods" };
            writeln!(
                out,
                "<li><b>{}</b> <span>{}, {pods} {pods_word}; {}</span></li>",
                Escaped(name),
                kind.as_str(),
                Escaped(outage)
            )?;
        }
        out.push_str("</ol>\n");
    }
    writeln!(
        out,
        "<p class=\"facts digest\">Digest of the plan: <span class=\"code\">{}</span></p></details>",
        Escaped(digest)
    )
}

fn kept(out: &mut String, leaf: &PlannedLeaf) -> Result {
    let PlannedLeaf { key, serial_number, subject, names, usages, key_type, .. } = leaf;
    write!(out, "<li><b>{}</b>: {}", Escaped(key), Escaped(subject))?;
    for (what, all) in [("names", names), ("usages", usages)] {
        if !all.is_empty() {
            write!(out, "; {what} {}", Escaped(&all.join(", ")))?;
        }
    }
    let key_type = key_type.as_str();
    writeln!(out, "; a new key of type {key_type} in place of serial number {}</li>", Escaped(serial_number))
}

fn conditions(out: &mut String, renewal: &Renewal) -> Result {
    if renewal.status.conditions.is_empty() {
        return Ok(());
    }
    out.push_str("<h3>Conditions</h3>\n<ul class=\"conditions\">\n");
    for condition in &renewal.status.conditions {
        writeln!(
            out,
            "<li><b>{}</b> {} since {}: {} <span>{}</span></li>",
            Escaped(&condition.kind),
            Escaped(&condition.status),
            Moment(condition.last_transition_time),
            Escaped(&condition.reason),
            Escaped(&condition.message)
        )?;
    }
    out.push_str("</ul>\n");
    Ok(())
}

fn earlier(out: &mut String, shown: &Renewal, row: &Row, fleet: &Fleet) -> Result {
    let of_mesh = |renewal: &&Renewal| {
        renewal.spec.mesh_id == row.mesh.key.id.as_str()
            && *renewal.namespace == *row.mesh.key.namespace
            && renewal.name != shown.name
    };
    let here = fleet.view.renewals.iter().filter(|known| known.cluster == row.cluster);
    let mut others: Vec<&Renewal> = here.map(|known| &*known.renewal).filter(of_mesh).collect();
    if others.is_empty() {
        return Ok(());
    }
    others.sort_by(|a, b| b.rank().cmp(&a.rank()));
    writeln!(
        out,
        "<details id=\"earlier\"><summary id=\"earlier-summary\">Other renewals of this mesh ({})</summary>\n<ul class=\"earlier\">",
        others.len()
    )?;
    for renewal in others.into_iter().take(MOST_EARLIER) {
        let status = &renewal.status;
        let when = status.phase_since.or(renewal.created).map(|at| Moment(at).to_string()).unwrap_or_default();
        let tone = if status.phase == Phase::Succeeded { Tone::Calm } else { Tone::Wait };
        writeln!(
            out,
            "<li class=\"{}\"><b>{}</b> {when} <span class=\"code\">{}</span> <span>{}</span></li>",
            tone.class(),
            words::title(status.phase),
            Escaped(&renewal.name),
            Escaped(&status.message)
        )?;
    }
    out.push_str("</ul></details>\n");
    Ok(())
}
