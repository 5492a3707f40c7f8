//! The first page: how the fleet is, and the worst of it.

use std::fmt::{Result, Write};

use crate::mesh::MeshKey;
use crate::name::Encoded;
use crate::server::overview::State;
use crate::server::page::fleet::{Fleet, Row};
use crate::server::page::words::{NOT_SEEN, Tone, serves, stuck_for};
use crate::server::page::{Asked, Escaped, Moment};
use crate::server::renewals::approve_command;
use crate::time::{DAY, UnixTime, in_words};

/// Meshes on a page: what a person reads, and what a phone loads in a second.
const PER_PAGE: usize = 20;
/// So few are seen at a glance; beyond, a name can be looked for.
const OVERSEEN: usize = 8;
/// Of each mesh; its own page has all.
const MOST_FINDINGS: usize = 2;
/// Renewals of a source that cannot be read; the API names all.
const MOST_UNREADABLE: usize = 10;
/// The whole width of a gauge, in seconds: what kubeadm's certificates live.
const FULL: i64 = 365 * DAY;

pub(super) fn body(out: &mut String, fleet: &Fleet, asked: &Asked) -> Result {
    summary(out, fleet)?;
    if fleet.rows.is_empty() {
        if fleet.sources.iter().all(|source| source.up) {
            out.push_str("<p class=\"empty\">None found. Are the clusters and namespaces the right ones?</p>\n");
        }
    } else {
        let wanted = state_of(&asked.state);
        let found: Vec<&Row> = fleet.rows.iter().filter(|row| matches(row, &asked.q, wanted)).collect();
        filters(out, fleet, asked, wanted)?;
        meshes(out, fleet, asked, wanted, &found)?;
    }
    sources(out, fleet)
}

fn summary(out: &mut String, fleet: &Fleet) -> Result {
    let all = fleet.rows.len();
    let bad = fleet.rows.iter().filter(|row| !row.is_well()).count();
    let verb = if bad == 1 { "needs" } else { "need" };
    let down = fleet.sources.iter().filter(|source| !source.up).count();
    let unseen = fleet.rows.iter().filter(|row| fleet.endpoints(row).is_none()).count();
    let unread = fleet.view.sources.iter().any(|source| !source.is_readable());
    out.push_str("<div id=\"summary\" class=\"summary\">\n<h1>");
    match (all, bad) {
        (0, _) if down > 0 && down == fleet.sources.len() => {
            out.push_str("Nothing is known: no source can be read");
        }
        (0, _) if down > 0 => out.push_str("No hosted meshes where sources can be read"),
        (0, _) => out.push_str("No hosted meshes"),
        (_, 0) if down == 0 && unseen == 0 && !unread => out.push_str("All is well"),
        (_, 0) => out.push_str("All that can be seen is well"),
        _ => write!(out, "{bad} of {all} {} {verb} attention", plural(all, "mesh", "meshes"))?,
    }
    out.push_str("</h1>\n<p>");
    if let Some(worst) = fleet.rows.first().filter(|row| !row.is_well()) {
        let (id, left) = (Escaped(worst.mesh.key.id.as_str()), worst.time_left(fleet.now));
        match worst.state {
            _ if worst.is_raised() => trouble(out, worst, fleet.now)?,
            State::Expired => write!(out, "The hosted API of {id} cannot be used any more: it {left}.")?,
            State::Urgent | State::Expiring => write!(out, "The first one, {id}, ends in {left}.")?,
            State::Stale | State::Unreachable => {
                let first = wrongly_served(fleet, worst).next().unwrap_or_default();
                write!(out, "Of {id}, {}.", Escaped(&first))?
            }
            State::Missing => write!(out, "{id} is incomplete.")?,
            State::Invalid | State::Ok => write!(out, "{id} does not hold together.")?,
        }
    } else if all > 0 {
        write!(out, "Nothing ends within {}.", in_words(fleet.thresholds.renew_before))?;
    }
    if unseen > 0 {
        let whose =
            if unseen == all { "endpoints".to_owned() } else { format!("the endpoints of {unseen} of {all} meshes") };
        write!(out, " <span id=\"unseen\">What {whose} serve is {NOT_SEEN}.</span>")?;
    }
    match down {
        0 => {}
        1 => out.push_str(" <a href=\"#sources\">One source cannot be read.</a>"),
        _ => write!(out, " <a href=\"#sources\">{down} sources cannot be read.</a>")?,
    }
    if unread {
        out.push_str(" <a id=\"unread\" href=\"/runbooks/MeshcertNotActing\">Not all renewals can be read.</a>");
    }
    writeln!(out, " <span class=\"asof\">As of {}.</span></p>\n</div>", Moment(fleet.now))
}

/// What became of a renewal that a person has to look at.
fn trouble(out: &mut String, row: &Row, now: UnixTime) -> Result {
    let title = row.doing.as_ref().map_or("", |doing| doing.title);
    write!(out, "The renewal of {} needs a look: {title}", Escaped(row.mesh.key.id.as_str()))?;
    if let Some(lasts) = row.renewal.as_ref().and_then(|renewal| stuck_for(renewal, now)) {
        write!(out, " for {}", in_words(lasts))?;
    }
    out.push('.');
    Ok(())
}

/// The search, and the states with their numbers.
fn filters(out: &mut String, fleet: &Fleet, asked: &Asked, wanted: Option<State>) -> Result {
    if fleet.rows.len() > OVERSEEN || !asked.q.is_empty() {
        search(out, asked, wanted)?;
    }
    out.push_str("<nav id=\"states\" class=\"states\" aria-label=\"Meshes by state\">");
    let mut chip = |name: &str, words: &str, count: usize, state: Option<State>| {
        let current = if state == wanted { " aria-current=\"true\"" } else { "" };
        write!(
            out,
            "<a id=\"state-{name}\" class=\"chip {name}\" href=\"{}\"{current}>{words} <b>{count}</b></a> ",
            link(&asked.q, state, 1)
        )
    };
    chip("all", "all", fleet.rows.len(), None)?;
    for state in State::ALL {
        let count = fleet.count(state);
        if count > 0 || wanted == Some(state) {
            chip(state.as_str(), state.as_str(), count, Some(state))?;
        }
    }
    out.push_str("</nav>\n");
    Ok(())
}

fn search(out: &mut String, asked: &Asked, wanted: Option<State>) -> Result {
    let q = Escaped(&asked.q);
    out.push_str("<form id=\"search\" role=\"search\" method=\"get\" action=\"/\">\n");
    write!(
        out,
        "<label for=\"q\">Find a mesh</label> <input id=\"q\" name=\"q\" type=\"search\" value=\"{q}\" autocomplete=\"off\" spellcheck=\"false\" placeholder=\"mesh, namespace or cluster\">"
    )?;
    if let Some(state) = wanted {
        write!(out, "<input type=\"hidden\" name=\"state\" value=\"{}\">", state.as_str())?;
    }
    out.push_str(" <button id=\"find\">Find</button>\n</form>\n");
    Ok(())
}

fn meshes(out: &mut String, fleet: &Fleet, asked: &Asked, wanted: Option<State>, found: &[&Row]) -> Result {
    let pages = found.len().div_ceil(PER_PAGE).max(1);
    let page = asked.page.parse().unwrap_or(1).clamp(1, pages);
    if found.is_empty() {
        return writeln!(out, "<p id=\"none\" class=\"empty\">No mesh is like that. <a href=\"/\">Show all</a></p>");
    }
    out.push_str("<h2 class=\"quiet\">Hosted meshes, worst first</h2>\n<ol id=\"meshes\" class=\"meshes\">\n");
    for row in found.iter().skip((page - 1) * PER_PAGE).take(PER_PAGE) {
        one(out, row, fleet)?;
    }
    out.push_str("</ol>\n");
    if pages > 1 {
        write!(out, "<nav id=\"pages\" class=\"pages\" aria-label=\"Pages\">")?;
        if page > 1 {
            write!(out, "<a id=\"worse\" rel=\"prev\" href=\"{}\">← Worse</a> ", link(&asked.q, wanted, page - 1))?;
        }
        write!(out, "<span>Page {page} of {pages}, {} meshes</span>", found.len())?;
        if page < pages {
            write!(out, " <a id=\"better\" rel=\"next\" href=\"{}\">Better →</a>", link(&asked.q, wanted, page + 1))?;
        }
        out.push_str("</nav>\n");
    }
    Ok(())
}

fn one(out: &mut String, row: &Row, fleet: &Fleet) -> Result {
    let MeshKey { namespace, id } = &row.mesh.key;
    let (cluster, namespace, id) = (Escaped(&row.cluster), Escaped(namespace), Escaped(id.as_str()));
    let key = format!("{cluster}.{namespace}.{id}");
    let state = row.state.as_str();
    writeln!(out, "<li id=\"mesh.{key}\" class=\"mesh {state}\">")?;
    writeln!(
        out,
        "<div class=\"line\"><h3><a id=\"link.{key}\" href=\"{}\">{id}</a></h3><b class=\"left\">{}</b><span class=\"where\">{namespace} on {cluster}</span><span class=\"badge\">{state}</span></div>",
        Escaped(&row.path()),
        Escaped(&left(row, fleet.now))
    )?;
    gauge(out, row, fleet.now, fleet.thresholds.renew_before)?;
    why(out, fleet, row)?;
    if let Some(doing) = &row.doing {
        write!(out, "<p class=\"doing {}\"><b>{}</b>", doing.tone.class(), doing.title)?;
        if !doing.more.is_empty() {
            write!(out, " <span>{}</span>", Escaped(&doing.more))?;
        }
        out.push_str("</p>\n");
    }
    let approvable = row.renewal.as_ref().is_some_and(|renewal| approve_command(renewal).is_some());
    if approvable || row.runbook.is_some() {
        out.push_str("<p class=\"links\">");
        if approvable {
            write!(
                out,
                "<a id=\"approve.{key}\" href=\"{}#renewal\">Read the plan and approve it</a> ",
                Escaped(&row.path())
            )?;
        }
        if let Some(runbook) = row.runbook {
            write!(
                out,
                "<a id=\"runbook.{key}\" href=\"{}\">Runbook<span class=\"quiet\"> for {id}: {runbook}</span></a>",
                row.runbook_link(runbook)
            )?;
        }
        out.push_str("</p>\n");
    }
    out.push_str("</li>\n");
    Ok(())
}

/// The time left, or gone by: that it has expired is said beside it.
fn left(row: &Row, now: UnixTime) -> String {
    match row.mesh.expiration.map(|end| end.seconds_until(now)) {
        Some(gone @ 0..) => format!("{} ago", in_words(gone)),
        _ => row.time_left(now),
    }
}

/// How much of a year is left, and where it becomes too little.
fn gauge(out: &mut String, row: &Row, now: UnixTime, renew_before: i64) -> Result {
    let left = row.mesh.expiration.map_or(0, |end| now.seconds_until(end));
    // Its colour is that of the time left, whatever else may be wrong.
    let tone = match left {
        ..=0 => "expired",
        left if left < renew_before => "expiring",
        _ => "ok",
    };
    let part = |seconds: i64| seconds.clamp(0, FULL) as f64 * 100.0 / FULL as f64;
    writeln!(
        out,
        "<svg class=\"gauge {tone}\" aria-hidden=\"true\"><rect class=\"track\" width=\"100%\" height=\"6\" rx=\"3\"/><rect class=\"fill\" width=\"{:.1}%\" height=\"6\" rx=\"3\"/><rect class=\"tick\" x=\"{:.1}%\" width=\"1.5\" height=\"6\"/></svg>",
        part(left),
        part(renew_before)
    )
}

/// What is wrong with what its endpoints serve; that the stored certificate has ended is said of an expired mesh already.
fn wrongly_served(fleet: &Fleet, row: &Row) -> impl Iterator<Item = String> {
    let endpoints = fleet.endpoints(row).unwrap_or_default().iter();
    endpoints
        .filter(|endpoint| endpoint.stale || endpoint.is_silent() || row.state != State::Expired)
        .filter_map(|endpoint| serves(endpoint, fleet.now))
}

/// What makes it bad.
pub(super) fn why(out: &mut String, fleet: &Fleet, row: &Row) -> Result {
    let now = fleet.now;
    if let Some(first) = row.first_to_end().filter(|_| row.due) {
        let end = first.effective_not_after;
        let verb = if end <= now { "ended" } else { "ends" };
        let ca = if end < first.certificate.not_after { ", because a CA above it does" } else { "" };
        writeln!(
            out,
            "<p class=\"why\"><span class=\"code\">{}</span> of {} {verb} {}{ca}.</p>",
            Escaped(&first.key),
            first.secret_role.as_str(),
            Moment(end)
        )?;
    }
    // That certificates have ended is said above, of the first one.
    let findings = row
        .findings
        .iter()
        .filter(|finding| row.state != State::Expired || finding.reason != crate::mesh::Reason::Expired)
        .map(|finding| finding.message.clone());
    let others: Vec<String> = wrongly_served(fleet, row).chain(findings).collect();
    for message in others.iter().take(MOST_FINDINGS) {
        writeln!(out, "<p class=\"why\">{}</p>", Escaped(message))?;
    }
    if others.len() > MOST_FINDINGS {
        writeln!(out, "<p class=\"why\">and {} more</p>", others.len() - MOST_FINDINGS)?;
    }
    Ok(())
}

fn sources(out: &mut String, fleet: &Fleet) -> Result {
    out.push_str("<section id=\"sources\" class=\"sources\">\n<h2>Sources</h2>\n<ul>\n");
    // The other way round, the words for time left are those for time gone by.
    let last = |at: Option<UnixTime>| match at.map(|at| at.seconds_until(fleet.now)) {
        None => "never answered".to_owned(),
        Some(..2) => "answered just now".to_owned(),
        Some(seconds) => format!("answered {} ago", in_words(seconds)),
    };
    for source in &fleet.sources {
        let (class, word) = if source.up { (Tone::Calm, "up") } else { (Tone::Bad, "down") };
        let failures: u64 = source.errors.iter().map(|(_, count)| count).sum();
        write!(
            out,
            "<li class=\"{}\"><b>{}</b> <span class=\"badge\">{word}</span> <span>{} Secrets, {}",
            class.class(),
            Escaped(&source.source),
            source.objects,
            last(source.last_success)
        )?;
        if failures > 0 {
            write!(out, ", {failures} failed {}", plural(failures as usize, "request", "requests"))?;
        }
        if let Some(message) = &source.message {
            write!(out, "; {}", Escaped(message))?;
        }
        out.push_str("</span>");
        if !source.up {
            runbook(out, "MeshcertSourceDown")?;
        }
        out.push_str("</li>\n");
    }
    for source in &fleet.view.sources {
        if let Some(failure) = &source.failure {
            let namespace = source.namespace.as_deref().unwrap_or("all namespaces");
            let whose = format!("Renewals of {}, {namespace}", source.cluster);
            not_readable(out, &whose, &format!("{failure}; {}", last(source.last_success)))?;
        }
        for one in source.unreadable.values().take(MOST_UNREADABLE) {
            let whose = format!("Renewal {} of {}, {}", one.name, source.cluster, one.namespace);
            not_readable(out, &whose, &one.why)?;
        }
        if source.unreadable.len() > MOST_UNREADABLE {
            writeln!(out, "<li>and {} more</li>", source.unreadable.len() - MOST_UNREADABLE)?;
        }
    }
    out.push_str("</ul>\n</section>\n");
    Ok(())
}

fn not_readable(out: &mut String, what: &str, why: &str) -> Result {
    let (what, why) = (Escaped(what), Escaped(why));
    write!(out, "<li class=\"wait\"><b>{what}</b> <span class=\"badge\">not readable</span> <span>{why}</span>")?;
    runbook(out, "MeshcertNotActing")?;
    out.push_str("</li>\n");
    Ok(())
}

/// A link to a runbook about no mesh.
fn runbook(out: &mut String, name: &str) -> Result {
    write!(out, " <a href=\"/runbooks/{name}\">Runbook<span class=\"quiet\"> {name}</span></a>")
}

fn matches(row: &Row, q: &str, wanted: Option<State>) -> bool {
    let q = q.trim().to_lowercase();
    let MeshKey { namespace, id } = &row.mesh.key;
    wanted.is_none_or(|state| state == row.state)
        && [id.as_str(), namespace, &row.cluster].iter().any(|name| name.to_lowercase().contains(&q))
}

fn state_of(name: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| state.as_str() == name)
}

/// A link to this page, ready for an attribute.
fn link(q: &str, state: Option<State>, page: usize) -> String {
    let mut parts = Vec::new();
    if !q.is_empty() {
        parts.push(format!("q={}", Encoded(q)));
    }
    parts.extend(state.map(|state| format!("state={}", state.as_str())));
    if page > 1 {
        parts.push(format!("page={page}"));
    }
    if parts.is_empty() { "/".to_owned() } else { format!("/?{}", parts.join("&amp;")) }
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}
