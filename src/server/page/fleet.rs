//! The meshes of all clusters, worst first, each with the renewal that counts.

use std::sync::Arc;

use crate::follower::View;
use crate::mesh::{Finding, HostedMesh, MeshCertificate, MeshKey};
use crate::metrics::SourceHealth;
use crate::metrics::exposition::ClusterSnapshot;
use crate::metrics::renewals::{EndpointState, Served};
use crate::name::Encoded;
use crate::policy::Thresholds;
use crate::renewal::Renewal;
use crate::server::App;
use crate::server::overview::{Given, State, state};
use crate::server::page::words::{Doing, Tone, doing, runbook};
use crate::time::{UnixTime, time_left};

/// What the pages are made from.
pub(super) struct Fleet {
    /// Worst first.
    pub(super) rows: Vec<Row>,
    pub(super) sources: Vec<SourceHealth>,
    pub(super) view: Arc<View>,
    pub(super) served: Served,
    pub(super) now: UnixTime,
    pub(super) thresholds: Thresholds,
}

/// A mesh.
pub(super) struct Row {
    pub(super) cluster: Arc<str>,
    pub(super) mesh: Arc<HostedMesh>,
    pub(super) state: State,
    /// Whether it ends within `renewBefore`, whatever else is wrong with it.
    pub(super) due: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) renewal: Option<Arc<Renewal>>,
    pub(super) doing: Option<Doing>,
    /// Name of the runbook for what is wrong.
    pub(super) runbook: Option<&'static str>,
}

impl Fleet {
    /// What is known now.
    pub(super) fn of(app: &App) -> Self {
        Self::make(Given::of(app), app.followed.view())
    }

    pub(super) fn make(given: Given, view: Arc<View>) -> Self {
        let Given { clusters, sources, served, now, thresholds } = given;
        let renewals = view.by_mesh();
        let meshes = clusters.iter().flat_map(|cluster| cluster.snapshot.meshes().map(move |mesh| (cluster, mesh)));
        let row = |(cluster, mesh): (&ClusterSnapshot, &Arc<HostedMesh>)| {
            let place = (&*cluster.name, &*mesh.key.namespace, mesh.key.id.as_str());
            let renewal = renewals.get(&place).map(|renewal| Arc::clone(renewal));
            let findings = mesh.findings_at(now);
            let endpoints = served.of(&cluster.name, &mesh.key).unwrap_or_default();
            let state = state(mesh, &findings, endpoints, now, thresholds);
            // One that cannot be read may be this mesh's.
            let unreadable = view.unreadable(place.0, place.1).next().map(ToString::to_string);
            let obstacle = view.obstacle(place.0, place.1).or(unreadable.as_deref());
            let due = mesh.expiration.is_some_and(|end| thresholds.is_due(end, now));
            Row {
                cluster: Arc::clone(&cluster.name),
                mesh: Arc::clone(mesh),
                state,
                due,
                doing: doing(due, renewal.as_deref(), obstacle, now),
                runbook: runbook(state, due, &findings, renewal.as_deref(), now),
                findings,
                renewal,
            }
        };
        let mut rows: Vec<Row> = meshes.map(row).collect();
        rows.sort_by(|a, b| a.rank().cmp(&b.rank()));
        Self { rows, sources, view, served, now, thresholds }
    }

    /// What the endpoints of a mesh served when they were asked last; `None` where this process asks none.
    pub(super) fn endpoints(&self, row: &Row) -> Option<&[EndpointState]> {
        self.served.of(&row.cluster, &row.mesh.key)
    }

    /// Of each state how many meshes are in it.
    pub(super) fn count(&self, state: State) -> usize {
        self.rows.iter().filter(|row| row.state == state).count()
    }
}

impl Row {
    /// Whether its renewal went wrong, is stuck or held up: a person has to look.
    pub(super) fn is_troubled(&self) -> bool {
        let held = |renewal: &Arc<Renewal>| renewal.status.phase.is_held(&renewal.status.reason);
        self.doing.as_ref().is_some_and(|doing| doing.tone == Tone::Bad) || self.renewal.as_ref().is_some_and(held)
    }

    /// Whether all is well with it and its renewal.
    pub(super) fn is_well(&self) -> bool {
        self.state == State::Ok && !self.is_troubled()
    }

    /// Whether its renewal is the worst of it.
    pub(super) fn is_raised(&self) -> bool {
        self.state >= State::Expiring && self.is_troubled()
    }

    /// Worst first; renewals in trouble stand before what merely ends soon; of those that are well, the ones with whose renewal something is going on. A mesh without any readable certificate has no end and stands first.
    pub(super) fn rank(&self) -> (State, bool, bool, Option<UnixTime>, &str, &str, &str) {
        let raised = self.is_raised();
        let state = if raised { State::Expiring } else { self.state };
        let quiet =
            raised || self.state != State::Ok || self.doing.as_ref().is_none_or(|doing| doing.tone == Tone::Calm);
        let MeshKey { namespace, id } = &self.mesh.key;
        (state, !raised, quiet, self.mesh.expiration, &self.cluster, namespace, id.as_str())
    }

    /// The time left in words.
    pub(super) fn time_left(&self, now: UnixTime) -> String {
        self.mesh.expiration.map_or_else(|| "no readable certificate".to_owned(), |end| time_left(now, end))
    }

    /// The certificate whose end is the mesh's.
    pub(super) fn first_to_end(&self) -> Option<&MeshCertificate> {
        self.mesh.certificates.iter().filter(|found| found.needed()).min_by_key(|found| found.effective_not_after)
    }

    /// A link to a runbook about it, ready for an attribute.
    pub(super) fn runbook_link(&self, runbook: &str) -> String {
        let MeshKey { namespace, id } = &self.mesh.key;
        let [mesh, namespace, cluster] = [id.as_str(), namespace, &self.cluster].map(Encoded);
        let mut link = format!("/runbooks/{runbook}?mesh={mesh}&amp;namespace={namespace}&amp;cluster={cluster}");
        if let Some(renewal) = &self.renewal {
            link = format!("{link}&amp;renewal={}", Encoded(&renewal.name));
        }
        link
    }

    /// The path of its page.
    pub(super) fn path(&self) -> String {
        let MeshKey { namespace, id } = &self.mesh.key;
        format!("/meshes/{}/{}/{}", Encoded(&self.cluster), Encoded(namespace), Encoded(id.as_str()))
    }
}
