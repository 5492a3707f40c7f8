//! The runbooks, as they were when this version was built: at three in the morning, and in clusters without internet, they are a click away.

use std::fmt::Write;

use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, html};
use serde::Deserialize;

use crate::mesh::MeshId;
use crate::name::{Encoded, is_label, is_subdomain};
use crate::runbook::{filled, with_renewal};
use crate::server::page::{Escaped, document, html_response};
use crate::server::sentence;

macro_rules! runbooks {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each.
        const ALL: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../docs/runbooks/", $name, ".md")))),*];
    };
}

runbooks![
    "MeshcertCAEndsSoon",
    "MeshcertCertificateInvalid",
    "MeshcertConfigReloadFailed",
    "MeshcertEndpointUnreachable",
    "MeshcertExcessPermission",
    "MeshcertExporterAbsent",
    "MeshcertListenerCertificate",
    "MeshcertMeshSecretMissing",
    "MeshcertNotActing",
    "MeshcertRenewalAwaitingApproval",
    "MeshcertRenewalFailed",
    "MeshcertRenewalHeld",
    "MeshcertRenewalLooping",
    "MeshcertRenewalRefused",
    "MeshcertRenewalStuck",
    "MeshcertServedCertificateStale",
    "MeshcertSourceDown",
    "MspiderHostedKubeAPICertExpiration",
];

/// Where the documents are that are not served here.
const PUBLISHED: &str = "https://github.com/meshcert/meshcert/blob/main/docs/";

/// The mesh that is spoken of, so that the commands can be pasted as they stand.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::server) struct About {
    mesh: String,
    namespace: String,
    cluster: String,
    /// The name of the renewal that counts.
    renewal: String,
}

/// Answers `/runbooks/{name}`; links between runbooks end in `.md`.
pub(in crate::server) async fn read(Path(name): Path<String>, Query(about): Query<About>) -> Response {
    let name = name.strip_suffix(".md").unwrap_or(&name);
    match ALL.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => html_response(document(name, None, |out| {
            out.push_str("<p class=\"up\"><a id=\"all\" href=\"/\">← All meshes</a></p>\n");
            if !about.cluster.is_empty() {
                writeln!(
                    out,
                    "<p class=\"where\">The commands are for the cluster {}: <code>kubectl config use-context CONTEXT</code> first, or <code>--context CONTEXT</code> with each of them.</p>",
                    Escaped(&about.cluster)
                )?;
            }
            out.push_str("<article class=\"runbook\">\n");
            render(out, text, &about);
            out.write_str("</article>\n")
        })),
        None => sentence(StatusCode::NOT_FOUND, "there is no runbook of this name; each is named after its alert"),
    }
}

/// As HTML, with the mesh's names in place of those of the examples.
fn render(out: &mut String, text: &str, about: &About) {
    // Both stand in commands: what is not the name that it should be is not put in, and no other namespace for it.
    let mesh = about.mesh.parse::<MeshId>().ok();
    let namespace = match &*about.namespace {
        "" => None,
        name if is_label(name) => Some(name),
        _ => Some("NAMESPACE"),
    };
    let (mut text, mut query) = (text.to_owned(), String::new());
    if let Some(mesh) = &mesh {
        text = filled(&text, mesh.as_str(), namespace.unwrap_or("istio-system"));
        query = format!("?mesh={mesh}");
        if let Some(namespace) = namespace {
            query = format!("{query}&namespace={namespace}");
        }
        if is_subdomain(&about.renewal) {
            text = with_renewal(&text, &about.renewal);
            query = format!("{query}&renewal={}", about.renewal);
        }
        if !about.cluster.is_empty() {
            query = format!("{query}&cluster={}", Encoded(&about.cluster));
        }
    }
    if let Some((heading, rest)) = text.split_once('\n') {
        text = format!("{}\n{rest}", breakable(heading));
    }
    let linked = Parser::new_ext(&text, Options::ENABLE_TABLES).map(|event| match event {
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = CowStr::from(linked_to(&dest_url, &query));
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        other => other,
    });
    html::push_html(out, linked);
}

/// Where a link leads: another runbook is served too, about the same mesh; of the other documents only the published ones are to be had.
fn linked_to(url: &str, query: &str) -> String {
    if let Some(document) = url.strip_prefix("../") {
        return format!("{PUBLISHED}{document}");
    }
    match url.split_once('#') {
        Some((page, section)) if page.ends_with(".md") => format!("{page}{query}#{section}"),
        None if url.ends_with(".md") => format!("{url}{query}"),
        _ => url.to_owned(),
    }
}

/// An alert's name for a heading: a phone may break it between its words, and nowhere else.
fn breakable(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && out.ends_with(char::is_lowercase) {
            out.push_str("<wbr>");
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runbook_is_there() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbooks")).unwrap();
        let mut files: Vec<String> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ALL.iter().map(|(name, _)| format!("{name}.md")).collect::<Vec<_>>());
    }

    #[test]
    fn the_heading_breaks_between_its_words() {
        let mut out = String::new();
        render(&mut out, "# KubeAPICertExpiration\n\nIstioCni\n", &About::default());
        assert_eq!(out, "<h1>Kube<wbr>APICert<wbr>Expiration</h1>\n<p>IstioCni</p>\n");
    }

    #[test]
    fn links_lead_to_what_there_is() {
        let query = "?mesh=m";
        for (url, to) in [
            ("Other.md", "Other.md?mesh=m"),
            ("Other.md#mitigation", "Other.md?mesh=m#mitigation"),
            ("../OPERATIONS.md#rights", "https://github.com/meshcert/meshcert/blob/main/docs/OPERATIONS.md#rights"),
            ("#meaning", "#meaning"),
            ("https://example.org/", "https://example.org/"),
        ] {
            assert_eq!(linked_to(url, query), to);
        }
    }

    #[test]
    fn the_procedure_by_hand_is_the_meshs_and_keeps_the_jobs_variable() {
        let (_, text) = ALL.iter().find(|(name, _)| *name == "MspiderHostedKubeAPICertExpiration").unwrap();
        let mut out = String::new();
        render(&mut out, text, &About { mesh: "demo".to_owned(), ..About::default() });
        assert!(out.contains("{name: MESH_ID, value: demo}") && out.contains("https://$MESH_ID-hosted-apiserver:6443"));
        assert!(out.contains("secretName: demo-etcd-certs"));
    }

    #[test]
    fn commands_name_the_renewal_that_counts_and_nothing_that_is_no_name() {
        let (_, text) = ALL.iter().find(|(name, _)| *name == "MeshcertRenewalAwaitingApproval").unwrap();
        let with = |renewal: &str| {
            let mut out = String::new();
            let about = About { mesh: "m".to_owned(), renewal: renewal.to_owned(), ..About::default() };
            render(&mut out, text, &about);
            out
        };
        let filled = with("m-1.a");
        assert!(filled.contains("describe crn m-1.a\n") && !filled.contains("crn NAME"), "{filled}");
        assert!(filled.contains(".md?mesh=m&amp;renewal=m-1.a"), "{filled}");
        for hostile in ["a; reboot", "-a", "$(reboot)", "a\nb", ".."] {
            assert_eq!(with(hostile), with(""), "{hostile}");
        }
    }

    #[test]
    fn commands_name_the_mesh_that_is_spoken_of_and_nothing_that_is_no_name() {
        let with = |mesh: &str, namespace: &str| {
            let mut out = String::new();
            let text = "`kubectl -n istio-system get secret MESH_ID-kube-certs`, [more](Other.md)";
            render(
                &mut out,
                text,
                &About { mesh: mesh.to_owned(), namespace: namespace.to_owned(), ..About::default() },
            );
            out
        };
        let about = |namespace: &str| {
            format!(
                "<p><code>kubectl -n {namespace} get secret hosted-demo-kube-certs</code>, <a href=\"Other.md?mesh=hosted-demo&amp;namespace={namespace}\">more</a></p>\n"
            )
        };
        for namespace in ["mesh-2", "2024-mesh"] {
            assert_eq!(with("hosted-demo", namespace), about(namespace));
        }
        assert!(with("hosted-demo", "").contains("-n istio-system get secret hosted-demo-"), "as it stands");
        let plain = with("", "");
        assert!(plain.contains("MESH_ID-kube-certs"));
        for hostile in ["a; reboot", "<script>", "$(reboot)", "Istio"] {
            assert_eq!(with(hostile, "istio-system"), plain, "{hostile}");
            assert_eq!(with("hosted-demo", hostile), about("NAMESPACE"), "{hostile}");
        }
    }
}
