//! The first page: HTML without scripts or anything from elsewhere.

use std::fmt::{Display, Formatter, Result, Write};

use crate::metrics::SourceHealth;
use crate::server::overview::{Overview, Row};
use crate::time::{UnixTime, time_left};

/// Nothing may be loaded; the styles stand in the page.
pub(super) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page as a whole.
pub(super) fn html(overview: &Overview) -> String {
    let mut out = String::with_capacity(4096);
    // Writing to a String cannot fail.
    let _ = page(&mut out, overview);
    out
}

fn page(out: &mut String, overview: &Overview) -> Result {
    out.push_str(HEAD);
    let version = env!("CARGO_PKG_VERSION");
    write!(out, "<h1>meshcert <small>{version}</small></h1>\n<p>As of {}. ", overview.now)?;
    out.push_str(LINKS);
    meshes(out, &overview.rows)?;
    sources(out, &overview.sources, overview.now)?;
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn meshes(out: &mut String, rows: &[Row]) -> Result {
    writeln!(out, "<h2>Hosted meshes ({})</h2>", rows.len())?;
    if rows.is_empty() {
        out.push_str("<p>None found. Are the clusters and namespaces the right ones?</p>\n");
        return Ok(());
    }
    out.push_str("<table>\n<thead><tr><th>State</th><th>Mesh</th><th>Cluster</th><th>Namespace</th><th>Time left</th><th>Stops working</th><th>Findings</th></tr></thead>\n<tbody>\n");
    for row in rows.iter().take(MAX_ROWS) {
        let end = row.expiration.map(|end| end.to_string()).unwrap_or_default();
        write!(
            out,
            "<tr><td class=\"{state}\">{state}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{end}</td><td>",
            Escaped(&row.id),
            Escaped(&row.cluster),
            Escaped(&row.namespace),
            Escaped(&row.time_left),
            state = row.state.as_str(),
        )?;
        for finding in row.findings.iter().take(MAX_FINDINGS) {
            write!(out, "<div>{}</div>", Escaped(finding))?;
        }
        if let Some(more) = row.findings.len().checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
            write!(out, "<div>and {more} more</div>")?;
        }
        out.push_str("</td></tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    if rows.len() > MAX_ROWS {
        writeln!(
            out,
            "<p>The {MAX_ROWS} worst of {} are shown; <a href=\"/api/v1/meshes\">the API</a> lists all.</p>",
            rows.len()
        )?;
    }
    Ok(())
}

fn sources(out: &mut String, sources: &[SourceHealth], now: UnixTime) -> Result {
    out.push_str("<h2>Sources</h2>\n<table>\n<thead><tr><th>Source</th><th>State</th><th>Last answer</th><th>Secrets</th><th>Errors</th></tr></thead>\n<tbody>\n");
    for health in sources {
        let state = if health.up { "up" } else { "down" };
        // The other way round, the words for time left are those for time gone by.
        let last = health.last_success.map(|at| match at.seconds_until(now) {
            ..=0 => "just now".to_owned(),
            _ => format!("{} ago", time_left(at, now)),
        });
        writeln!(
            out,
            "<tr><td>{}</td><td class=\"{state}\">{state}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(&health.source),
            last.unwrap_or_else(|| "never".to_owned()),
            health.objects,
            health.errors.iter().map(|(_, count)| count).sum::<u64>(),
        )?;
    }
    out.push_str("</tbody>\n</table>\n");
    Ok(())
}

/// Text that stays text in HTML, in elements and in attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            _ => f.write_char(c),
        })
    }
}

const MAX_ROWS: usize = 500;
const MAX_FINDINGS: usize = 3;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>meshcert</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
small { font-weight: normal; opacity: .7; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid light-dark(#ddd, #444); }
.expired, .invalid, .down { color: light-dark(#b00020, #ff8a80); font-weight: 600; }
.expiring { color: light-dark(#8a5a00, #ffcc66); font-weight: 600; }
.ok, .up { color: light-dark(#1b6e2b, #8fd19e); }
</style>
</head>
<body>
<main>
"#;

const LINKS: &str = r#"See <a href="/metrics">metrics</a>, <a href="/api/v1/meshes">meshes as JSON</a>, <a href="/-/ready">readiness</a>, <a href="/-/healthy">health</a>.</p>
"#;
