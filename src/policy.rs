//! What may be done, and when: a chain of named checks.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cert::Certificate;
use crate::cert::issue::KeyType;
use crate::secret::PAUSED;
use crate::time::{DAY, UnixTime};

/// How far meshcert goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Looks and tells; renews nothing.
    #[default]
    Observe,
    /// Makes a plan and waits for a person's consent.
    Approve,
    /// Renews.
    Auto,
}

impl Mode {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Auto => "auto",
        }
    }
}

/// What makes the new certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// In process; needs no image and no pod.
    #[default]
    Native,
    /// kubeadm in a Job, as documented by the vendor; where it would lose something, `native` steps in, and the plan says so.
    Job,
}

impl Engine {
    /// Its name in the configuration and in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Job => "job",
        }
    }
}

/// What is done where kubeadm has given the admin another Subject, which may lock the admin out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AdminSubject {
    /// The admin's certificate is made again in process, with the Subject that it had.
    #[default]
    Repair,
    /// The renewal fails in the audit, with nothing touched.
    Refuse,
}

/// When a node pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Where it has none yet.
    #[default]
    IfNotPresent,
    /// Before each run.
    Always,
    /// Never: it has to be there.
    Never,
}

/// The renewing Job; lengths of time in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPolicy {
    /// With bash, kubeadm and kubectl.
    pub image: String,
    /// May patch the staged copies, which are Secrets.
    pub service_account: String,
    /// When the image is pulled.
    pub image_pull_policy: PullPolicy,
    /// How long a run may take, its image's pull included.
    pub deadline: i64,
    /// How long a run that meshcert did not remove itself stays.
    pub ttl: i64,
}

impl Default for JobPolicy {
    /// As the vendor documents it.
    fn default() -> Self {
        Self {
            image: "release.daocloud.io/mspider/self-hosted-apiserver:0.0.13".to_owned(),
            service_account: "mspider-mcpc".to_owned(),
            image_pull_policy: PullPolicy::default(),
            deadline: 300,
            ttl: 3600,
        }
    }
}

/// The rules for one cluster's renewals; lengths of time in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How far meshcert goes by itself.
    pub mode: Mode,
    /// A certificate with less time left is due.
    pub renew_before: i64,
    /// With less time left than this, windows and cooldown do not hold a renewal up.
    pub urgent_before: i64,
    /// Renewals of a namespace that are under way at the same time: each holds a Lease beside its mesh's Secrets.
    pub max_concurrent: u32,
    /// Least time between two renewals of a mesh.
    pub cooldown: i64,
    /// After so many meshes failed within a day, no further one is begun.
    pub stop_after_failures: u32,
    /// When renewals may begin; empty: always.
    pub windows: Vec<Window>,
    /// How long a tier may take to restart.
    pub restart_deadline: i64,
    /// How long the proof may take.
    pub verify_deadline: i64,
    /// What makes the new certificates.
    pub engine: Engine,
    /// What is done where kubeadm has given the admin another Subject.
    pub admin_subject: AdminSubject,
    /// The renewing Job.
    pub job: JobPolicy,
    /// Kind of the new keys; `None`: as the old one's.
    pub key_type: Option<KeyType>,
    /// How long a new leaf lives.
    pub lifetime: i64,
    /// Backups that are kept of each mesh.
    pub backups: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            renew_before: 30 * DAY,
            urgent_before: 3 * DAY,
            max_concurrent: 1,
            cooldown: 3600,
            stop_after_failures: 3,
            windows: Vec::new(),
            restart_deadline: 600,
            verify_deadline: 300,
            engine: Engine::default(),
            admin_subject: AdminSubject::default(),
            job: JobPolicy::default(),
            key_type: None,
            lifetime: 365 * DAY,
            backups: 3,
        }
    }
}

/// A weekly maintenance window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// On which days it begins; empty: every day.
    pub days: Vec<Weekday>,
    /// When it begins, in the time zone.
    pub start: Time,
    /// When it ends; not after `start` means on the next day.
    pub end: Time,
    /// Whose clocks are meant.
    pub zone: TimeZone,
}

impl Window {
    /// Whether a moment lies in it.
    pub fn contains(&self, now: UnixTime) -> bool {
        // Beyond the year 9999 no window is open.
        let Ok(moment) = jiff::Timestamp::from_second(now.0) else { return false };
        let local = moment.to_zoned(self.zone.clone());
        let begins_on = |day: Weekday| self.days.is_empty() || self.days.contains(&day);
        let (time, day) = (local.time(), local.weekday());
        if self.start < self.end {
            return begins_on(day) && self.start <= time && time < self.end;
        }
        (begins_on(day) && time >= self.start) || (begins_on(day.previous()) && time < self.end)
    }
}

/// What the checks look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Circumstances {
    /// When the mesh's first certificate ends.
    pub expiration: Option<UnixTime>,
    /// Whether the mesh or the renewal is paused.
    pub paused: bool,
    /// Whether a person insists although nothing is due.
    pub forced: bool,
    /// When the mesh's last renewal ended well.
    pub last_success: Option<UnixTime>,
    /// Other meshes of the cluster whose renewal failed within a day.
    pub failed_meshes: u32,
}

/// What a check has against it; the stable codes of `status.reason` and of `meshcert_renewal_held`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Somebody paused the mesh or the renewal.
    Paused,
    /// The mode is `observe`.
    ObserveOnly,
    /// Nothing ends within `renewBefore`.
    NotDue,
    /// The mesh was renewed a moment ago.
    Cooldown,
    /// No window is open.
    OutsideWindow,
    /// Too many other meshes failed today.
    BreakerOpen,
}

impl Hold {
    /// All, in the order in which they are checked.
    pub const ALL: [Self; 6] =
        [Self::Paused, Self::ObserveOnly, Self::NotDue, Self::Cooldown, Self::OutsideWindow, Self::BreakerOpen];

    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::ObserveOnly => "ObserveOnly",
            Self::NotDue => "NotDue",
            Self::Cooldown => "Cooldown",
            Self::OutsideWindow => "OutsideWindow",
            Self::BreakerOpen => "BreakerOpen",
        }
    }
}

/// Below which time left a mesh is due, and urgent, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// `renewBefore`.
    pub renew_before: i64,
    /// `urgentBefore`.
    pub urgent_before: i64,
}

impl Thresholds {
    /// Whether a mesh that ends then is due.
    pub fn is_due(&self, end: UnixTime, now: UnixTime) -> bool {
        now.seconds_until(end) < self.renew_before
    }
}

impl Policy {
    /// The key that the successor of a leaf gets.
    pub fn key_type_of(&self, leaf: &Certificate) -> KeyType {
        self.key_type.unwrap_or(KeyType::like(leaf.key_algorithm))
    }

    /// The first moment at which a mesh that ends then is due.
    pub fn due_from(&self, end: UnixTime) -> UnixTime {
        end.plus(1 - self.renew_before)
    }

    /// Whether a person may mend something first; with no time left, nothing is lost by going on.
    pub fn has_time(&self, about: &Circumstances, now: UnixTime) -> bool {
        !about.forced && about.expiration.is_some_and(|end| now.seconds_until(end) >= self.urgent_before)
    }

    /// The first thing that is against renewing now, with words for a person.
    pub fn holds(&self, about: &Circumstances, now: UnixTime) -> Option<(Hold, String)> {
        let left = about.expiration.map(|end| now.seconds_until(end));
        let urgent = left.is_some_and(|left| left < self.urgent_before);
        let words = crate::time::in_words;
        if about.paused {
            return Some((Hold::Paused, format!("paused by the annotation {PAUSED}; remove it to go on")));
        }
        if self.mode == Mode::Observe {
            let message = "policy.mode is observe: nothing is renewed; set it to approve or auto, or renew by hand";
            return Some((Hold::ObserveOnly, message.to_owned()));
        }
        if !about.forced && left.is_none_or(|left| left >= self.renew_before) {
            let left =
                left.map_or_else(|| "no certificate was found".to_owned(), |left| format!("{} left", words(left)));
            return Some((Hold::NotDue, format!("nothing ends within {}: {left}", words(self.renew_before))));
        }
        if let Some(since) = about.last_success.map(|last| last.seconds_until(now))
            && since < self.cooldown
            && !urgent
        {
            return Some((
                Hold::Cooldown,
                format!("the mesh was renewed {} ago; cooldown {}", words(since), words(self.cooldown)),
            ));
        }
        if !self.windows.is_empty() && !urgent && !self.windows.iter().any(|window| window.contains(now)) {
            let message =
                format!("no maintenance window is open; below {} windows do not count", words(self.urgent_before));
            return Some((Hold::OutsideWindow, message));
        }
        // Whatever is near its end is let through, however many: a wrong breaker must not let a mesh die.
        if about.failed_meshes >= self.stop_after_failures && !urgent && !about.forced {
            let message = format!(
                "the renewals of {} other meshes of this cluster failed within a day; look at them, or wait",
                about.failed_meshes
            );
            return Some((Hold::BreakerOpen, message));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_795_478_400); // Tuesday 2026-11-24T00:00:00Z

    fn mk_due() -> Circumstances {
        Circumstances { expiration: Some(NOW.plus(20 * DAY)), ..Circumstances::default() }
    }

    fn mk_auto() -> Policy {
        Policy { mode: Mode::Auto, ..Policy::default() }
    }

    fn hold(policy: &Policy, about: &Circumstances) -> Option<Hold> {
        policy.holds(about, NOW).map(|(hold, _)| hold)
    }

    fn mk_window(start: i8, end: i8, days: &[Weekday], zone: &str) -> Window {
        let time = |hour| Time::new(hour, 0, 0, 0).unwrap();
        Window { days: days.to_vec(), start: time(start), end: time(end), zone: TimeZone::get(zone).unwrap() }
    }

    #[test]
    fn each_check_has_its_reason_and_the_first_one_counts() {
        assert_eq!(hold(&mk_auto(), &mk_due()), None);
        assert_eq!(hold(&Policy::default(), &mk_due()), Some(Hold::ObserveOnly));
        assert_eq!(hold(&Policy::default(), &Circumstances { paused: true, ..mk_due() }), Some(Hold::Paused));
        let early = Circumstances { expiration: Some(NOW.plus(31 * DAY)), ..mk_due() };
        assert_eq!(hold(&mk_auto(), &early), Some(Hold::NotDue));
        assert_eq!(hold(&mk_auto(), &Circumstances { forced: true, ..early }), None);
        let again = Circumstances { last_success: Some(NOW.plus(-60)), ..mk_due() };
        assert_eq!(hold(&mk_auto(), &again), Some(Hold::Cooldown));
        let failing = Circumstances { failed_meshes: 3, ..mk_due() };
        assert_eq!(hold(&mk_auto(), &failing), Some(Hold::BreakerOpen));
        assert_eq!(hold(&mk_auto(), &Circumstances { forced: true, ..failing }), None);
    }

    #[test]
    fn urgency_overrides_windows_cooldown_and_breaker_but_not_a_pause() {
        let window = mk_window(22, 23, &[], "UTC");
        let policy = Policy { windows: vec![window], ..mk_auto() };
        assert_eq!(hold(&policy, &mk_due()), Some(Hold::OutsideWindow));
        let urgent = Circumstances {
            expiration: Some(NOW.plus(2 * DAY)),
            last_success: Some(NOW.plus(-60)),
            failed_meshes: 9,
            ..Circumstances::default()
        };
        assert_eq!(hold(&policy, &urgent), None);
        assert_eq!(hold(&policy, &Circumstances { paused: true, ..urgent }), Some(Hold::Paused));
    }

    #[test]
    fn windows_follow_their_time_zone_and_run_over_midnight() {
        // Midnight in UTC is eight in the morning in Shanghai and seven in the evening of Monday in New York.
        assert!(mk_window(7, 9, &[Weekday::Tuesday], "Asia/Shanghai").contains(NOW));
        assert!(!mk_window(0, 2, &[], "Asia/Shanghai").contains(NOW));
        assert!(mk_window(18, 20, &[Weekday::Monday], "America/New_York").contains(NOW));
        assert!(mk_window(22, 4, &[Weekday::Monday], "UTC").contains(NOW), "it began yesterday");
        assert!(!mk_window(22, 4, &[Weekday::Tuesday], "UTC").contains(NOW));
        assert!(!mk_window(22, 0, &[], "UTC").contains(NOW), "its end is not in it");
    }
}
