//! What is going on, in words for somebody who was asleep a minute ago.

use crate::mesh::{Finding, Reason};
use crate::metrics::renewals::EndpointState;
use crate::renewal::{Phase, Renewal};
use crate::server::overview::State;
use crate::server::renewals::runbook as renewal_runbook;
use crate::time::{UnixTime, in_words};

/// How something looks: a colour and a mark that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well, or over.
    Calm,
    /// Under way by itself.
    Work,
    /// Waits, most likely for a person.
    Wait,
    /// Went wrong.
    Bad,
}

/// Longer than any one phase of work may last, in seconds: the limit of the alert MeshcertRenewalStuck.
const STUCK_AFTER: i64 = 3_600;
/// What endpoints serve, where the page is that of a process which does not lead, or has just begun to.
pub(super) const NOT_SEEN: &str = "not seen here: the process that leads (role act; its name is in the Lease meshcert-leader) looks at them, every minute";

/// What meshcert is doing about a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doing {
    pub(super) tone: Tone,
    /// In three words.
    pub(super) title: &'static str,
    /// In a sentence; may be empty.
    pub(super) more: String,
}

impl Tone {
    /// The class in the styles.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Work => "work",
            Self::Wait => "wait",
            Self::Bad => "bad",
        }
    }
}

/// A phase as a person would call it.
pub(super) fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Waiting to begin",
        Phase::Preflight => "Making a plan",
        Phase::AwaitingApproval => "Waiting for approval",
        Phase::BackingUp => "Backing up",
        Phase::Staging => "Making new certificates",
        Phase::Auditing => "Judging the new certificates",
        Phase::Committing => "Replacing the Secrets",
        Phase::Restarting => "Restarting",
        Phase::Verifying => "Proving what is served",
        Phase::Succeeded => "Renewed and proven",
        Phase::RolledBack => "Rolled back",
        Phase::Failed => "Failed",
        Phase::Refused => "Refused",
        Phase::Superseded => "Overtaken by another renewal",
    }
}

/// For how many seconds a renewal has not left a phase of work, where that is too long.
pub(super) fn stuck_for(renewal: &Renewal, now: UnixTime) -> Option<i64> {
    let status = &renewal.status;
    let waits = matches!(status.phase, Phase::Pending | Phase::AwaitingApproval);
    let works = !waits && !status.phase.is_terminal() && !status.phase.is_held(&status.reason);
    status.phase_since.map(|since| since.seconds_until(now)).filter(|lasts| works && *lasts > STUCK_AFTER)
}

/// What is being done about a mesh that is due or not; `obstacle` says why renewals cannot be read. `None` where nothing is to be done and nothing was.
pub(super) fn doing(due: bool, renewal: Option<&Renewal>, obstacle: Option<&str>, now: UnixTime) -> Option<Doing> {
    let Some(renewal) = renewal else {
        // What is missing, broken or not taken up yet is not renewed by itself: what is said of it says what mends it.
        return due.then(|| match obstacle {
            Some(obstacle) => {
                Doing { tone: Tone::Wait, title: "What is done about it cannot be read", more: obstacle.to_owned() }
            }
            None => Doing { tone: Tone::Wait, title: "No renewal was asked for", more: String::new() },
        });
    };
    let status = &renewal.status;
    let ago = |since: Option<UnixTime>| match since.map(|since| since.seconds_until(now)) {
        Some(seconds @ 2..) => format!("{} ago", in_words(seconds)),
        _ => "just now".to_owned(),
    };
    let again = match status.next_attempt_at {
        Some(at) if at > now => format!(" Tried again in {}.", in_words(now.seconds_until(at))),
        Some(_) => " Tried again in a moment.".to_owned(),
        None => " Not tried again by itself.".to_owned(),
    };
    let (tone, title, more) = match status.phase {
        phase if phase.is_held(&status.reason) => (Tone::Wait, "Held up", status.message.clone()),
        Phase::AwaitingApproval if renewal.paused => (Tone::Wait, title(status.phase), status.message.clone()),
        Phase::AwaitingApproval => {
            (Tone::Wait, title(status.phase), "The plan is ready; a person has to agree to it.".to_owned())
        }
        Phase::Succeeded | Phase::Superseded if due => {
            (Tone::Wait, "No renewal was asked for", format!("The last one ended {}.", ago(status.phase_since)))
        }
        Phase::Succeeded | Phase::Superseded => {
            (Tone::Calm, title(status.phase), format!("{}.", capital(&ago(status.phase_since))))
        }
        Phase::Failed | Phase::Refused => {
            (Tone::Bad, title(status.phase), format!("{}.{again}", status.message.trim_end_matches('.')))
        }
        Phase::RolledBack => (Tone::Bad, title(status.phase), status.message.clone()),
        phase => match stuck_for(renewal, now) {
            Some(lasts) => (Tone::Bad, title(phase), format!("for {}: {}", in_words(lasts), status.message)),
            None => (Tone::Work, title(phase), status.message.clone()),
        },
    };
    Some(Doing { tone, title, more })
}

/// The runbook for what is wrong with a mesh: what a person has to do comes first.
pub(super) fn runbook(
    state: State,
    due: bool,
    findings: &[Finding],
    renewal: Option<&Renewal>,
    now: UnixTime,
) -> Option<&'static str> {
    let is = |reason: Reason| findings.iter().any(|finding| finding.reason == reason);
    let stuck = |renewal| stuck_for(renewal, now).map(|_| "MeshcertRenewalStuck");
    renewal.and_then(|renewal| renewal_runbook(renewal).or_else(|| stuck(renewal))).or(match state {
        // Nothing is renewed as long as a Secret is missing.
        State::Ok => None,
        _ if is(Reason::SecretMissing) => Some("MeshcertMeshSecretMissing"),
        _ if is(Reason::CaExpired) => Some("MeshcertCAEndsSoon"),
        State::Stale => Some("MeshcertServedCertificateStale"),
        State::Unreachable => Some("MeshcertEndpointUnreachable"),
        _ if due => Some("MspiderHostedKubeAPICertExpiration"),
        _ => Some("MeshcertCertificateInvalid"),
    })
}

/// What is wrong with what an endpoint serves.
pub(super) fn serves(endpoint: &EndpointState, now: UnixTime) -> Option<String> {
    let name = &endpoint.endpoint;
    let has_ended = endpoint.not_after.is_some_and(|end| end <= now);
    match (has_ended, endpoint.stale) {
        (true, true) => Some(format!("{name} serves a certificate that has ended, and not the stored one")),
        (true, false) => Some(format!("{name} serves the stored certificate, which has ended")),
        (false, true) => Some(format!("{name} serves another certificate than the stored one")),
        (false, false) => endpoint.is_silent().then(|| format!("{name} answers no TLS handshake")),
    }
}

/// With a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::Position;
    use crate::mesh::SecretRole;
    use crate::renewal::Status;

    const NOW: UnixTime = UnixTime(1_795_465_260);

    fn mk_renewal(phase: Phase, reason: &str, message: &str) -> Renewal {
        let status = Status {
            phase,
            reason: reason.to_owned(),
            message: message.to_owned(),
            phase_since: Some(NOW.plus(-300)),
            ..Status::default()
        };
        Renewal { status, ..Renewal::default() }
    }

    fn said(due: bool, renewal: &Renewal) -> (Tone, &'static str, String) {
        let Doing { tone, title, more } = doing(due, Some(renewal), None, NOW).unwrap();
        (tone, title, more)
    }

    #[test]
    fn what_is_done_is_said_with_what_comes_next() {
        let held = mk_renewal(Phase::Pending, "OutsideWindow", "no maintenance window is open");
        assert_eq!(said(true, &held), (Tone::Wait, "Held up", "no maintenance window is open".to_owned()));
        let queued = mk_renewal(Phase::BackingUp, "NoSlot", "as many as may be are under way");
        assert_eq!(said(true, &queued).1, "Held up", "nothing is backed up yet");
        let approved = mk_renewal(Phase::AwaitingApproval, "Paused", "demo-kube-certs is paused");
        assert_eq!(said(true, &approved), (Tone::Wait, "Held up", "demo-kube-certs is paused".to_owned()));
        assert_eq!(said(true, &mk_renewal(Phase::AwaitingApproval, "AwaitingApproval", "")).1, "Waiting for approval");
        assert_eq!(said(true, &mk_renewal(Phase::BackingUp, "BackingUp", "")).1, "Backing up");
        let running = mk_renewal(Phase::Restarting, "Restarting", "etcd: 1 of 3 pods");
        assert_eq!(said(true, &running), (Tone::Work, "Restarting", "etcd: 1 of 3 pods".to_owned()));
        let mut failed = mk_renewal(Phase::Failed, "Unproven", "etcd-0 does not answer.");
        assert_eq!(
            said(false, &failed),
            (Tone::Bad, "Failed", "etcd-0 does not answer. Not tried again by itself.".to_owned())
        );
        failed.status.next_attempt_at = Some(NOW.plus(3 * 3600));
        assert!(said(false, &failed).2.ends_with("answer. Tried again in 3 hours."));
        let done = mk_renewal(Phase::Succeeded, "Succeeded", "every endpoint serves it");
        assert_eq!(said(false, &done), (Tone::Calm, "Renewed and proven", "5 minutes ago.".to_owned()));
        assert_eq!(said(true, &done).1, "No renewal was asked for", "that of last year does not count");
    }

    #[test]
    fn without_a_renewal_only_what_is_due_is_mentioned() {
        assert_eq!(doing(false, None, Some("forbidden"), NOW), None);
        assert_eq!(doing(true, None, None, NOW).unwrap().title, "No renewal was asked for");
        assert_eq!(doing(true, None, Some("forbidden"), NOW).unwrap().more, "forbidden");
    }

    #[test]
    fn what_works_for_over_an_hour_is_stuck_and_what_waits_is_not() {
        let lasting = |phase, seconds: i64| {
            let mut renewal = mk_renewal(phase, "", "etcd: 1 of 3 pods");
            renewal.status.phase_since = Some(NOW.plus(-seconds));
            renewal
        };
        let stuck = lasting(Phase::Restarting, 4 * 3600);
        assert_eq!(said(true, &stuck), (Tone::Bad, "Restarting", "for 4 hours: etcd: 1 of 3 pods".to_owned()));
        assert_eq!(runbook(State::Ok, false, &[], Some(&stuck), NOW), Some("MeshcertRenewalStuck"));
        assert_eq!(stuck_for(&lasting(Phase::Restarting, 3600), NOW), None);
        for waits in [Phase::Pending, Phase::AwaitingApproval, Phase::Succeeded, Phase::Failed] {
            assert_eq!(stuck_for(&lasting(waits, 4 * 3600), NOW), None, "{waits:?}");
        }
        let mut queued = lasting(Phase::BackingUp, 4 * 3600);
        queued.status.reason = "NoSlot".to_owned();
        assert_eq!(stuck_for(&queued, NOW), None, "held up");
    }

    #[test]
    fn the_runbook_is_that_of_what_a_person_has_to_do() {
        let waiting = mk_renewal(Phase::AwaitingApproval, "AwaitingApproval", "");
        let running = mk_renewal(Phase::Staging, "Staging", "");
        let signal = Some("MspiderHostedKubeAPICertExpiration");
        let found = |reason| {
            let (key, position, message) = ("tls.crt".into(), Position::Entry, String::new());
            [Finding { secret_role: SecretRole::KubeCerts, key, position, reason, message }]
        };
        assert_eq!(runbook(State::Expired, true, &[], Some(&waiting), NOW), Some("MeshcertRenewalAwaitingApproval"));
        assert_eq!(runbook(State::Expired, true, &[], Some(&running), NOW), signal);
        assert_eq!(runbook(State::Ok, false, &[], None, NOW), None);
        assert_eq!(runbook(State::Invalid, false, &[], None, NOW), Some("MeshcertCertificateInvalid"));
        assert_eq!(
            runbook(State::Invalid, true, &[], None, NOW),
            signal,
            "a finding does not hide that it is about to end"
        );
        let missing = found(Reason::SecretMissing);
        assert_eq!(runbook(State::Urgent, true, &missing, None, NOW), Some("MeshcertMeshSecretMissing"));
        assert_eq!(runbook(State::Invalid, false, &found(Reason::CaExpired), None, NOW), Some("MeshcertCAEndsSoon"));
    }
}
