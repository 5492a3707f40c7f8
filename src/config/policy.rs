//! `policy`: when certificates are due, what may be done about it, and when.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cert::issue::KeyType;
use crate::config::{ConfigError, Duration, invalid};
use crate::policy::{AdminSubject, Engine, JobPolicy, Mode, Policy, PullPolicy, Thresholds, Window};
use crate::rollout::{Target, default_tiers};
use crate::time::DAY;

/// When certificates are due, and what is done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// `observe` renews nothing, `approve` waits for a person's consent to each plan, `auto` renews.
    pub mode: Mode,
    /// A certificate with less time left than this is due.
    pub renew_before: Duration,
    /// With less time left than this, windows, cooldown and `stopAfterFailures` hold nothing up.
    pub urgent_before: Duration,
    /// Renewals of a namespace that are under way at the same time.
    pub max_concurrent: u32,
    /// Least time between two renewals of a mesh.
    pub cooldown: Duration,
    /// After so many meshes of a cluster failed within a day, no further one is begun, unless it is urgent (`urgentBefore`) or a person forces it.
    pub stop_after_failures: u32,
    /// When renewals may begin; empty: always.
    pub windows: Vec<WindowConfig>,
    /// What makes the new certificates: `native` in process, `job` by kubeadm in a Job.
    pub engine: Engine,
    /// What is done where kubeadm has given the admin another Subject.
    pub admin_subject: AdminSubject,
    /// The Job of the engine `job`.
    pub job: JobConfig,
    /// Kind of the new keys; absent: as each old one's.
    pub key_type: Option<KeyType>,
    /// How long a new leaf lives, as far as its CA does.
    pub lifetime: Duration,
    /// How long a tier may take to restart.
    pub restart_deadline: Duration,
    /// How long the proof may take.
    pub verify_deadline: Duration,
    /// Renewals of each mesh whose backups are kept; but one older than `lifetime`, which can be put back no more, only if it is the newest.
    pub backups: u32,
    /// The workloads to restart, tier after tier.
    pub restart_tiers: Vec<Vec<Target>>,
}

/// The renewing Job; the defaults are those of the vendor's documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JobConfig {
    /// With bash, kubeadm and kubectl.
    pub image: String,
    /// May patch the staged copies of the mesh's Secrets.
    pub service_account: String,
    /// When the image is pulled.
    pub image_pull_policy: PullPolicy,
    /// How long a run may take, its image's pull included.
    pub deadline: Duration,
    /// How long a run stays that meshcert did not remove itself.
    pub ttl: Duration,
}

impl Default for JobConfig {
    fn default() -> Self {
        let JobPolicy { image, service_account, image_pull_policy, deadline, ttl } = JobPolicy::default();
        Self { image, service_account, image_pull_policy, deadline: Duration(deadline), ttl: Duration(ttl) }
    }
}

/// A weekly maintenance window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowConfig {
    /// Days on which it begins (`mon` … `sun`); empty: every day.
    #[serde(default)]
    pub days: Vec<Day>,
    /// When it begins, `HH:MM`.
    pub start: String,
    /// When it ends, `HH:MM`; not after `start` means on the next day.
    pub end: String,
    /// Whose clocks are meant, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub time_zone: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl Default for PolicyConfig {
    fn default() -> Self {
        let Policy {
            mode,
            renew_before,
            urgent_before,
            max_concurrent,
            cooldown,
            stop_after_failures,
            windows: _,
            engine,
            admin_subject,
            job: _,
            key_type,
            lifetime,
            restart_deadline,
            verify_deadline,
            backups,
        } = Policy::default();
        Self {
            mode,
            renew_before: Duration(renew_before),
            urgent_before: Duration(urgent_before),
            max_concurrent,
            cooldown: Duration(cooldown),
            stop_after_failures,
            windows: Vec::new(),
            engine,
            admin_subject,
            job: JobConfig::default(),
            key_type,
            lifetime: Duration(lifetime),
            restart_deadline: Duration(restart_deadline),
            verify_deadline: Duration(verify_deadline),
            backups: backups as u32,
            restart_tiers: default_tiers(),
        }
    }
}

impl PolicyConfig {
    /// When a mesh counts as due, and as urgent.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { renew_before: self.renew_before.0, urgent_before: self.urgent_before.0 }
    }

    /// The rules as the core takes them.
    ///
    /// # Errors
    /// Values that cannot work, each with its path.
    pub fn compile(&self) -> Result<Policy, ConfigError> {
        let bad = |field: &str, message: &str| Err(invalid(&format!("policy.{field}"), message.to_owned()));
        if self.renew_before.0 == 0 {
            return bad("renewBefore", "must be longer than 0s, such as 30d");
        }
        if self.lifetime.0 < self.renew_before.0 + 7 * DAY {
            return bad("lifetime", "must be at least seven days longer than renewBefore, or renewing would never end");
        }
        if self.max_concurrent == 0 || self.max_concurrent > 64 {
            return bad("maxConcurrent", "must be 1 to 64; to renew nothing, set mode: observe");
        }
        if self.stop_after_failures == 0 {
            return bad("stopAfterFailures", "must be at least 1");
        }
        if self.backups == 0 {
            return bad("backups", "must be at least 1: without a backup there is no way back");
        }
        for (tier, targets) in self.restart_tiers.iter().enumerate() {
            for (position, target) in targets.iter().enumerate() {
                let path = format!("restartTiers[{tier}][{position}].name");
                if target.name == "istiod" {
                    return bad(
                        &path,
                        "a plain istiod belongs to another role and is never touched; name istiod-{mesh}-hosted",
                    );
                }
                if target.shared == target.name.contains("{mesh}") {
                    return bad(
                        &path,
                        "hold {mesh} in the name of what belongs to one mesh, and set shared: true where it serves all",
                    );
                }
            }
        }
        let windows = self.windows.iter().enumerate().map(|(index, window)| window.compile(index));
        Ok(Policy {
            mode: self.mode,
            renew_before: self.renew_before.0,
            urgent_before: self.urgent_before.0,
            max_concurrent: self.max_concurrent,
            cooldown: self.cooldown.0,
            stop_after_failures: self.stop_after_failures,
            windows: windows.collect::<Result<_, _>>()?,
            engine: self.engine,
            admin_subject: self.admin_subject,
            job: self.job.compile()?,
            key_type: self.key_type,
            lifetime: self.lifetime.0,
            restart_deadline: self.restart_deadline.0,
            verify_deadline: self.verify_deadline.0,
            backups: self.backups as usize,
        })
    }
}

impl JobConfig {
    fn compile(&self) -> Result<JobPolicy, ConfigError> {
        let Self { image, service_account, image_pull_policy, deadline, ttl } = self;
        let bad = |field: &str, message: &str| Err(invalid(&format!("policy.job.{field}"), message.to_owned()));
        if image.is_empty() || image.contains(char::is_whitespace) {
            return bad("image", "name the image that holds bash, kubeadm and kubectl");
        }
        if service_account.is_empty() {
            return bad("serviceAccount", "name the account that may patch the staged Secrets");
        }
        if deadline.0 < 30 {
            return bad("deadline", "must be at least 30s: a node may have to pull the image first");
        }
        Ok(JobPolicy {
            image: image.clone(),
            service_account: service_account.clone(),
            image_pull_policy: *image_pull_policy,
            deadline: deadline.0,
            ttl: ttl.0,
        })
    }
}

impl WindowConfig {
    fn compile(&self, index: usize) -> Result<Window, ConfigError> {
        let time = |field: &str, text: &str| {
            Time::strptime("%H:%M", text).map_err(|_| {
                let message = format!("{text:?} is no time of day such as 02:30");
                invalid(&format!("policy.windows[{index}].{field}"), message)
            })
        };
        let zone = TimeZone::get(&self.time_zone).map_err(|_| {
            let message = format!("{:?} is no time zone of the IANA database, such as Europe/Berlin", self.time_zone);
            invalid(&format!("policy.windows[{index}].timeZone"), message)
        })?;
        let day = |day: &Day| match day {
            Day::Mon => Weekday::Monday,
            Day::Tue => Weekday::Tuesday,
            Day::Wed => Weekday::Wednesday,
            Day::Thu => Weekday::Thursday,
            Day::Fri => Weekday::Friday,
            Day::Sat => Weekday::Saturday,
            Day::Sun => Weekday::Sunday,
        };
        let (start, end) = (time("start", &self.start)?, time("end", &self.end)?);
        Ok(Window { days: self.days.iter().map(day).collect(), start, end, zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_cannot_work_is_refused_with_its_path_and_a_remedy() {
        for (text, error) in [
            ("{renewBefore: 0s}", "policy.renewBefore: must be longer than 0s"),
            ("{lifetime: 30d}", "policy.lifetime: must be at least seven days longer"),
            ("{maxConcurrent: 0}", "policy.maxConcurrent: must be 1 to 64"),
            ("{backups: 0}", "policy.backups: must be at least 1"),
            ("{mode: yolo}", "policy.mode: unknown variant"),
            ("{engine: magic}", "policy.engine: unknown variant"),
            ("{job: {image: ''}}", "policy.job.image: name the image"),
            ("{job: {serviceAccount: ''}}", "policy.job.serviceAccount: name the account"),
            ("{job: {deadline: 5s}}", "policy.job.deadline: must be at least 30s"),
            ("{windows: [{start: '25:00', end: '03:00'}]}", "policy.windows[0].start: \"25:00\" is no time of day"),
            (
                "{windows: [{start: '02:00', end: '03:00', timeZone: Mars/Base}]}",
                "policy.windows[0].timeZone: \"Mars/Base\"",
            ),
            ("{restartTiers: [[{name: istiod}]]}", "policy.restartTiers[0][0].name: a plain istiod"),
            ("{restartTiers: [[{name: web}]]}", "policy.restartTiers[0][0].name: hold {mesh}"),
        ] {
            let found = Config::parse(&format!("policy: {text}")).expect_err(text).to_string();
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }

    #[test]
    fn everything_about_the_policy_can_be_said() {
        let text = "policy: {mode: auto, urgentBefore: 2d, maxConcurrent: 2, cooldown: 2h, keyType: ECDSA-P256, engine: job, adminSubject: refuse, job: {image: 'a/b:1', serviceAccount: x, imagePullPolicy: Always, deadline: 2m, ttl: 0s}, windows: [{days: [sat, sun], start: '22:00', end: '04:00', timeZone: Asia/Shanghai}]}";
        let config = Config::parse(text).unwrap();
        let policy = config.policy.compile().unwrap();
        assert_eq!((policy.max_concurrent, policy.windows.len(), policy.cooldown), (2, 1, 7200));
        assert_eq!(
            (policy.engine, policy.admin_subject, policy.job.deadline),
            (Engine::Job, AdminSubject::Refuse, 120)
        );
        assert_eq!(Config::parse(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}
