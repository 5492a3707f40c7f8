//! The meshes as a webhook without rights on Secrets needs them: where each is, when it ends, what the renewal of its present certificates is called.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;

use crate::metrics::exposition::ClusterSnapshot;
use crate::renewal::name_for;
use crate::requests::told::{Brief, BriefMesh};
use crate::server::{App, encoded};

/// The answer that was made last, and what it was made of: it changes with the certificates alone, not with the time.
#[derive(Debug, Default)]
pub(super) struct Briefs(Mutex<Option<(Vec<ClusterSnapshot>, bool, Bytes)>>);

/// The present answer; `None` where making it failed, which the runtime has logged.
pub(super) async fn current(app: &Arc<App>) -> Option<Bytes> {
    let app = Arc::clone(app);
    let make = move || {
        let complete = app.observed.sources().iter().all(|source| source.up);
        app.briefs.get(app.observed.clusters(), complete)
    };
    tokio::task::spawn_blocking(make).await.ok()
}

impl Briefs {
    fn get(&self, clusters: Vec<ClusterSnapshot>, complete: bool) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, was_complete, bytes)) = &*last
            && *was_complete == complete
            && *of == clusters
        {
            return bytes.clone();
        }
        let bytes = make(&clusters, complete);
        *last = Some((clusters, complete, bytes.clone()));
        bytes
    }
}

fn make(clusters: &[ClusterSnapshot], complete: bool) -> Bytes {
    let meshes = clusters.iter().flat_map(|cluster| cluster.snapshot.meshes().map(move |mesh| (cluster, mesh)));
    let meshes = meshes.map(|(cluster, mesh)| BriefMesh {
        cluster: cluster.name.to_string(),
        namespace: mesh.key.namespace.to_string(),
        id: mesh.key.id.to_string(),
        expiration: mesh.expiration,
        renewal_name: name_for(mesh),
    });
    encoded(&Brief { complete, meshes: meshes.collect() })
}
