//! The pages for people: everything is rendered here; the script only asks for the page again when something has changed.

use std::fmt::{Display, Formatter, Result, Write};
use std::sync::{Arc, LazyLock};

use axum::extract::{Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::name::Encoded;
use crate::server::page::fleet::Fleet;
use crate::server::{App, sentence};
use crate::time::UnixTime;

mod fleet;
mod list;
mod mesh;
mod renewal;
pub(super) mod runbook;
mod timeline;
mod words;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Nothing is loaded from anywhere; of styles and scripts only those that stand in the page, by their digests; nothing is sent but the search.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let of = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        of(STYLE),
        of(SCRIPT)
    )
});

/// What the first page is asked for; whatever makes no sense is passed over, for it may have been typed on a phone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Part of a mesh's, namespace's or cluster's name.
    q: String,
    state: String,
    page: String,
    refresh: String,
}

/// Answers `/`.
pub(super) async fn first(Shared(app): Shared<Arc<App>>, Query(asked): Query<Asked>) -> Response {
    rendered(app, move |app| {
        (StatusCode::OK, document("", Some(&asked), |out| list::body(out, &Fleet::of(app), &asked)))
    })
    .await
}

/// Answers `/meshes/{cluster}/{namespace}/{mesh}`.
pub(super) async fn one_mesh(
    Shared(app): Shared<Arc<App>>,
    Path((cluster, namespace, id)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    rendered(app, move |app| {
        let fleet = Fleet::of(app);
        let is_it = |row: &&fleet::Row| {
            *row.cluster == *cluster && *row.mesh.key.namespace == *namespace && row.mesh.key.id.as_str() == id
        };
        match fleet.rows.iter().find(is_it) {
            Some(row) => {
                let html = document(&id, Some(&asked), |out| mesh::body(out, &fleet, row));
                (StatusCode::OK, html)
            }
            // A page all the same: its script asks again, and shows the mesh once it is there.
            None => (StatusCode::NOT_FOUND, document(&id, Some(&asked), |out| mesh::unknown(out, &id, &fleet))),
        }
    })
    .await
}

/// Renders where it holds nobody up.
async fn rendered(app: Arc<App>, render: impl FnOnce(&App) -> (StatusCode, String) + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(move || render(&app)).await {
        Ok((status, html)) => (status, html_response(html)).into_response(),
        Err(_) => sentence(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made; the log says why"),
    }
}

fn html_response(html: String) -> Response {
    let head = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, &POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (head, html).into_response()
}

/// A whole page around `body`; `asked` is `None` for one that does not change.
fn document(title: &str, asked: Option<&Asked>, body: impl FnOnce(&mut String) -> Result) -> String {
    let mut out = String::with_capacity(64 << 10);
    // Writing to a String cannot fail.
    let _ = write_document(&mut out, title, asked, body);
    out
}

fn write_document(
    out: &mut String,
    title: &str,
    asked: Option<&Asked>,
    body: impl FnOnce(&mut String) -> Result,
) -> Result {
    out.push_str(HEAD);
    if !title.is_empty() {
        write!(out, "{} · ", Escaped(title))?;
    }
    writeln!(out, "meshcert</title>\n<style>{STYLE}</style>")?;
    // Only for those who asked for it: a page that changes under a reader is no help.
    if let Some(seconds) = asked.and_then(Asked::every) {
        writeln!(out, "<noscript><meta http-equiv=\"refresh\" content=\"{seconds}\"></noscript>")?;
    }
    out.push_str(TOP);
    if let Some(asked) = asked {
        still(out, asked)?;
    }
    out.push_str(MAIN);
    body(out)?;
    writeln!(out, "</main>\n{FOOT}<p>meshcert {}</p></footer>", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "<script>{SCRIPT}</script>\n</body>\n</html>")
}

/// What a page does without scripts. An empty link leads to the page as it was asked for.
fn still(out: &mut String, asked: &Asked) -> Result {
    out.push_str("<noscript><p class=\"still\">");
    match asked.every() {
        Some(seconds) => write!(
            out,
            "Without scripts this page is loaded every {seconds} seconds: <a href=\"{}\">let it stand still</a>.",
            asked.link("")
        )?,
        None => write!(
            out,
            "This page stands still without scripts: <a href=\"\">load it again</a>, or <a href=\"{}\">have it loaded every 15 seconds</a>.",
            asked.link("15")
        )?,
    }
    out.push_str("</p></noscript>\n");
    Ok(())
}

impl Asked {
    /// After how many seconds the page is loaded again, if it is to be.
    fn every(&self) -> Option<u32> {
        self.refresh.parse().ok().filter(|seconds| (5..=600).contains(seconds))
    }

    /// The same page, loaded again so often; ready for an attribute.
    fn link(&self, refresh: &str) -> String {
        let Self { q, state, page, .. } = self;
        let all = [("q", &**q), ("state", state), ("page", page), ("refresh", refresh)];
        let given = all.iter().filter(|(_, value)| !value.is_empty());
        let parts: Vec<String> = given.map(|(name, value)| format!("{name}={}", Encoded(value))).collect();
        format!("?{}", parts.join("&amp;"))
    }
}

/// A moment for people and programs.
struct Moment(UnixTime);

impl Display for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let text = self.0.to_string();
        let (date, time) = text.split_once('T').unwrap_or((&text, ""));
        write!(f, "<time datetime=\"{text}\">{date} {} UTC</time>", time.get(..5).unwrap_or_default())
    }
}

/// The day of a moment.
struct Day(UnixTime);

impl Display for Day {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let text = self.0.to_string();
        write!(f, "<time datetime=\"{text}\">{}</time>", text.split('T').next().unwrap_or_default())
    }
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
            // Characters that turn the text around would make a name look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}'),
            _ => f.write_char(c),
        })
    }
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='6' fill='none' stroke='%232a7d5f' stroke-width='3'/%3E%3C/svg%3E">
<title>"#;

const TOP: &str = r##"</head>
<body>
<a class="skip" href="#main">To the content</a>
<header class="top"><a class="brand" id="home" href="/">meshcert</a><p id="live">&nbsp;</p></header>
"##;

const MAIN: &str = r#"<p id="news" class="quiet" role="status"></p>
<main id="main" tabindex="-1">
"#;

const FOOT: &str = r#"<footer><nav aria-label="For programs"><a href="/metrics">Metrics</a> <a href="/api/v1/meshes">Meshes as JSON</a> <a href="/api/v1/renewals">Renewals as JSON</a> <a href="/api/v1/openapi.yaml">API</a> <a href="/-/ready">Readiness</a></nav>
"#;

#[cfg(test)]
mod tests;
