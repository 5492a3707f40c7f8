//! The page of one mesh.

use std::fmt::{Result, Write};

use crate::mesh::{MeshKey, SecretRole};
use crate::server::page::fleet::{Fleet, Row};
use crate::server::page::{Escaped, Moment, list, renewal, timeline};

pub(super) fn body(out: &mut String, fleet: &Fleet, row: &Row) -> Result {
    let MeshKey { namespace, id } = &row.mesh.key;
    let state = row.state.as_str();
    writeln!(
        out,
        "<div id=\"summary\" class=\"summary one {state}\">\n<p class=\"up\"><a id=\"all\" href=\"/\">← All meshes</a></p>"
    )?;
    writeln!(
        out,
        "<h1>{}</h1>\n<p class=\"where\">{} on {} <span class=\"badge\">{state}</span></p>",
        Escaped(id.as_str()),
        Escaped(namespace),
        Escaped(&row.cluster)
    )?;
    let unit = match row.mesh.expiration {
        Some(end) if end > fleet.now => " left",
        _ => "",
    };
    writeln!(out, "<p class=\"big\">{}{unit}</p>", Escaped(&row.time_left(fleet.now)))?;
    list::why(out, fleet, row)?;
    if let Some(doing) = &row.doing {
        writeln!(
            out,
            "<p class=\"doing {}\"><b>{}</b> <span>{}</span></p>",
            doing.tone.class(),
            doing.title,
            Escaped(&doing.more)
        )?;
    }
    if let Some(runbook) = row.runbook {
        writeln!(
            out,
            "<p class=\"links\"><a id=\"runbook\" href=\"{}\">Runbook {runbook}</a></p>",
            row.runbook_link(runbook)
        )?;
    }
    writeln!(out, "<p class=\"asof\">As of {}.</p>\n</div>", Moment(fleet.now))?;
    renewal::section(out, fleet, row)?;
    timeline::section(out, fleet, row)?;
    findings(out, row)?;
    secrets(out, row)
}

/// Where there is no mesh of the name, or none yet.
pub(super) fn unknown(out: &mut String, id: &str, fleet: &Fleet) -> Result {
    writeln!(
        out,
        "<div id=\"summary\" class=\"summary one\">\n<p class=\"up\"><a id=\"all\" href=\"/\">← All meshes</a></p>\n<h1>{}</h1>\n<p>No mesh of this name is known in this cluster and namespace.</p>\n<p class=\"asof\">As of {}.</p>\n</div>",
        Escaped(id),
        Moment(fleet.now)
    )
}

fn findings(out: &mut String, row: &Row) -> Result {
    if row.findings.is_empty() {
        return Ok(());
    }
    out.push_str("<section id=\"findings\">\n<h2>Findings</h2>\n<ul class=\"findings\">\n");
    for finding in &row.findings {
        writeln!(
            out,
            "<li>{} <span class=\"code\">{}</span></li>",
            Escaped(&finding.message),
            finding.reason.as_str()
        )?;
    }
    out.push_str("</ul>\n</section>\n");
    Ok(())
}

fn secrets(out: &mut String, row: &Row) -> Result {
    out.push_str("<section id=\"secrets\">\n<h2>Secrets</h2>\n<ul class=\"secrets\">\n");
    for role in SecretRole::ALL {
        let (class, words) = match &row.mesh.secrets[role as usize] {
            None => ("bad", "missing"),
            Some(facts) if facts.paused => ("wait", "there, and paused: meshcert keeps its hands off this mesh"),
            Some(_) => ("calm", "there"),
        };
        writeln!(
            out,
            "<li class=\"{class}\"><span class=\"code\">{}</span> {words}</li>",
            Escaped(row.mesh.secret_name(role))
        )?;
    }
    out.push_str("</ul>\n</section>\n");
    Ok(())
}
