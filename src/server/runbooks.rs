//! The runbooks, as they were when this version was built: at three in the morning, and in clusters without internet, they are a click away.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::server::sentence;

macro_rules! runbooks {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each.
        const ALL: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../docs/runbooks/", $name, ".md")))),*];
    };
}

runbooks![
    "MeshcertCAEndsSoon",
    "MeshcertCertificateInvalid",
    "MeshcertConfigReloadFailed",
    "MeshcertEndpointUnreachable",
    "MeshcertExporterAbsent",
    "MeshcertMeshSecretMissing",
    "MeshcertNotLeading",
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

/// Answers `/runbooks/{name}`; links between runbooks end in `.md`.
pub(super) async fn read(Path(name): Path<String>) -> Response {
    let name = name.strip_suffix(".md").unwrap_or(&name);
    match ALL.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(CONTENT_TYPE, "text/plain; charset=utf-8")], *text).into_response(),
        None => sentence(StatusCode::NOT_FOUND, "there is no runbook of this name; each is named after its alert"),
    }
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
}
