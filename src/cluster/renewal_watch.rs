//! Follows the renewals of a namespace, or of all: a list in pages, then a watch that is taken up again wherever it was cut.

use std::convert::Infallible;
use std::sync::Arc;

use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;

use crate::cluster::decode::Undecodable;
use crate::cluster::feed::{Closed, DEADLINE, Feed, Line, Subject, Trouble, undecodable};
use crate::cluster::renewals::{Unreadable, read};
use crate::cluster::request::{self, Resource};
use crate::name::Encoded;
use crate::ports::SourceError;
use crate::renewal::{GROUP, PLURAL, Renewal, VERSION};
use crate::time::UnixTime;

/// Objects per page: a renewal's journal and plan take some ten kilobytes.
const PAGE: usize = 200;
/// Beyond so many renewals of one source those that have ended are passed over in part: of which nothing came first, and of the others the oldest.
pub const MOST_RENEWALS: usize = 5_000;

/// One step of following renewals.
pub enum RenewalEvent {
    /// A full list: what it does not hold is gone.
    Listed {
        /// The renewals that can be read, of more than [`MOST_RENEWALS`] those that count.
        renewals: Vec<Renewal>,
        /// Those that cannot.
        unreadable: Vec<Unreadable>,
        /// Whether there are more.
        cut_off: bool,
    },
    /// A renewal was added or changed.
    Applied(Box<Renewal>),
    /// A renewal was deleted.
    Deleted {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The watch is alive.
    Alive,
    /// A renewal was added or changed, and cannot be read.
    Unreadable(Unreadable),
    /// A request failed; it is tried again.
    Failed(SourceError),
}

/// Follows the renewals of a namespace, or of all, until nobody listens; failures are events, and tried again with backoff.
pub async fn follow(client: Client, namespace: Option<Arc<str>>, events: Sender<RenewalEvent>) {
    let place = namespace.as_ref().map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let path = format!("/apis/{GROUP}/{VERSION}{place}/{PLURAL}?");
    let feed = Feed { client, namespace, path, subject: Renewals, events };
    // An error can only say that the receiver is gone, which is how following ends.
    let _: Result<Infallible, Closed> = feed.run().await;
}

struct Renewals;

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: Meta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Brief {
    metadata: Meta,
    code: u16,
    message: String,
}

impl Subject for Renewals {
    type Event = RenewalEvent;
    const RESOURCE: Resource = Resource::Renewals;
    const RELIST_AFTER: u32 = 3;

    fn alive() -> RenewalEvent {
        RenewalEvent::Alive
    }

    fn failed(error: SourceError) -> RenewalEvent {
        RenewalEvent::Failed(error)
    }

    fn line(&self, line: &[u8]) -> Result<Line<RenewalEvent>, Undecodable> {
        let Event { kind, object } = serde_json::from_slice(line)?;
        let Brief { metadata, code, message } = serde_json::from_str(object.get())?;
        let event = match kind {
            "ERROR" => return Ok(Line::Error(code, message)),
            "BOOKMARK" => RenewalEvent::Alive,
            "DELETED" => RenewalEvent::Deleted { namespace: metadata.namespace, name: metadata.name },
            _ => match read(object) {
                Ok(renewal) => RenewalEvent::Applied(Box::new(renewal)),
                Err(why) => RenewalEvent::Unreadable(why),
            },
        };
        Ok(Line::Event(event, metadata.resource_version))
    }
}

impl Feed<Renewals> {
    async fn run(self) -> Result<Infallible, Closed> {
        let mut trouble = Trouble::default();
        loop {
            match self.list().await? {
                Ok(version) => self.watch_on(version, &mut trouble).await?,
                Err(error) => self.fail(error, &mut trouble).await?,
            }
        }
    }

    /// Reads all pages; the version from which to watch.
    async fn list(&self) -> Result<Result<String, SourceError>, Closed> {
        let asked = self.asked("list");
        let (mut renewals, mut unreadable, mut next, mut cut_off) = (Vec::new(), Vec::new(), String::new(), false);
        loop {
            let token = if next.is_empty() { String::new() } else { format!("&continue={}", Encoded(&next)) };
            let uri = format!("{}limit={PAGE}{token}", self.path);
            let bytes = match request::get(&self.client, &uri, &asked, DEADLINE, Vec::new()).await {
                Ok(bytes) => bytes,
                Err(error) => return Ok(Err(error)),
            };
            let Page { metadata, items } = match serde_json::from_slice(&bytes) {
                Ok(page) => page,
                Err(error) => return Ok(Err(undecodable(&asked, &error.into()))),
            };
            for item in items {
                match read(item) {
                    Ok(renewal) => renewals.push(renewal),
                    Err(why) => unreadable.push(why),
                }
            }
            cut_off |= pass_over(&mut renewals);
            next = metadata.next;
            if next.is_empty() {
                self.send(RenewalEvent::Listed { renewals, unreadable, cut_off }).await?;
                return Ok(Ok(metadata.resource_version));
            }
        }
    }
}

/// Leaves out some of those that have ended, where there are too many; whether there were.
fn pass_over(renewals: &mut Vec<Renewal>) -> bool {
    if renewals.len() <= MOST_RENEWALS {
        return false;
    }
    renewals.sort_by(|a, b| worth(b).cmp(&worth(a)));
    let under_way = renewals.iter().take_while(|renewal| renewal.is_under_way()).count();
    renewals.truncate(MOST_RENEWALS.max(under_way));
    true
}

/// In what order renewals are kept, the last first: one that is under way; one of which something came, for whoever may ask in vain a thousand times must not hide it; the
/// newest.
pub(crate) fn worth(renewal: &Renewal) -> (bool, bool, Option<UnixTime>, &str) {
    let (under_way, created, name) = renewal.rank();
    (under_way, !renewal.status.is_moot(), created, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renewal::{Phase, Status};

    #[test]
    fn the_oldest_that_ended_are_passed_over_and_none_that_is_under_way() {
        let mk_renewal = |phase: Phase, created: i64| Renewal {
            name: format!("r-{created}"),
            created: Some(UnixTime(created)),
            status: Status { phase, cleaned_up: phase.is_terminal(), ..Status::default() },
            ..Renewal::default()
        };
        let mut all: Vec<Renewal> = (1..=MOST_RENEWALS as i64).map(|i| mk_renewal(Phase::Succeeded, i)).collect();
        assert!(!pass_over(&mut all));
        all.push(mk_renewal(Phase::Committing, 0));
        assert!(pass_over(&mut all));
        let has = |name: &str| all.iter().any(|one| one.name == name);
        assert!(all.len() == MOST_RENEWALS && has("r-0") && has("r-2") && !has("r-1"));
        // One that was asked for in vain goes first, however new it is.
        let mut moot = mk_renewal(Phase::Refused, 1_000_000);
        moot.status.reason = "NotDue".to_owned();
        all.push(moot);
        assert!(pass_over(&mut all));
        let has = |name: &str| all.iter().any(|one| one.name == name);
        assert!(all.len() == MOST_RENEWALS && has("r-2") && !has("r-1000000"));
    }
}
