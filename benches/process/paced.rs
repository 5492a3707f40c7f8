//! An API that answers the same pages, but takes as long over each as a kube-apiserver does.
//!
//! The embedded API copies pages out of memory; a real one reads etcd, decodes and encodes, on the same processors.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use http_body::Frame;

use crate::client::Client;

/// What kube-apiserver 1.34 with etcd took for 89 MB in pages of 500, on two cores shared with its reader: 0.64 s.
const PACE_BYTES_PER_SECOND: f64 = 89e6 / 0.64;

/// The role of this program in which it is such an API for the pages of a folder.
pub(crate) const PACED: &str = "answer-paced";

/// Reads all pages; the `continue` token and the bytes of each.
pub(crate) fn pages(client: &mut Client, path: &str) -> Vec<(String, Vec<u8>)> {
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.get(&uri(path, &token), "");
        let next = next(&page);
        pages.push((token, page));
        let Some(next) = next else { return pages };
        token = next;
    }
}

/// Where the page of a token is; the first has an empty one.
pub(crate) fn uri(path: &str, token: &str) -> String {
    let further = if token.is_empty() { String::new() } else { format!("&continue={token}") };
    format!("{path}?limit=250{further}")
}

/// The `continue` token at the beginning of a page.
pub(crate) fn next(page: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&page[..page.len().min(1024)]);
    let (_, rest) = head.split_once("\"continue\":\"")?;
    Some(rest.split('"').next().unwrap().to_owned())
}

/// Keeps pages for [`serve`].
pub(crate) fn store(folder: &Path, pages: &[(String, Vec<u8>)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (token, page) in pages {
        std::fs::write(folder.join(format!("page{token}")), page).unwrap();
    }
}

/// The routes of a paced API over the pages of a folder: lists, and a watch on which nothing happens.
pub(crate) fn router(folder: &Path) -> axum::Router {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let pages: HashMap<String, Bytes> = files
        .map(|file| {
            (file.file_name().to_str().unwrap()["page".len()..].to_owned(), std::fs::read(file.path()).unwrap().into())
        })
        .collect();
    let pages = Arc::new(pages);
    axum::Router::new().fallback(async move |Query(query): Query<HashMap<String, String>>| -> Response {
        if query.contains_key("watch") {
            return Body::new(Silence).into_response();
        }
        let page = pages[query.get("continue").map_or("", String::as_str)].clone();
        let work = Duration::from_secs_f64(page.len() as f64 / PACE_BYTES_PER_SECOND);
        let busy = tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            while start.elapsed() < work {
                std::hint::spin_loop();
            }
        });
        busy.await.unwrap();
        page.into_response()
    })
}

/// A body that never ends and says nothing.
struct Silence;

impl http_body::Body for Silence {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}
