//! What an API server says about itself: its clock and its version.

use serde::Deserialize;

use crate::cluster::api::{Api, ApiError};
use crate::time::UnixTime;

/// The oldest Kubernetes whose custom resources and rollouts are all that meshcert relies on.
const OLDEST: (u32, u32) = (1, 25);

/// An API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its clock, where it shows one.
    pub clock: Option<UnixTime>,
    version: Version,
}

/// The answer of `/version`; providers write `minor` as `24+`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    major: String,
    minor: String,
    git_version: String,
}

impl Version {
    /// Major and minor; nothing where it says neither.
    fn number(&self) -> Option<(u32, u32)> {
        let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        Some((digits(&self.major)?, digits(&self.minor)?))
    }
}

impl Server {
    /// What a person must know of one that is too old to be relied on.
    pub fn warning(&self) -> Option<String> {
        let (major, minor) = OLDEST;
        self.version.number().filter(|number| *number < OLDEST)?;
        let version = &self.version.git_version;
        Some(format!(
            "Kubernetes {version} is older than {major}.{minor}, the oldest that meshcert is made for: renewals may not work; upgrade the cluster"
        ))
    }
}

impl Api {
    /// What the API server says about itself.
    ///
    /// # Errors
    /// The request failed.
    pub async fn server(&self) -> Result<Server, ApiError> {
        let (version, clock) = self.get_with_clock::<Version>("/version").await?;
        Ok(Server { clock, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_so_where_the_server_is_older_than_kubernetes_1_25() {
        let warning = |major: &str, minor: &str| {
            let version =
                Version { major: major.into(), minor: minor.into(), git_version: format!("v{major}.{minor}") };
            Server { clock: None, version }.warning()
        };
        for (major, minor) in [("1", "25"), ("1", "34+"), ("2", "0"), ("", ""), ("one", "two")] {
            assert_eq!(warning(major, minor), None, "{major}.{minor}");
        }
        for (major, minor) in [("1", "24"), ("1", "24+"), ("1", "9"), ("0", "30")] {
            let words = warning(major, minor).unwrap();
            assert!(words.starts_with(&format!("Kubernetes v{major}.{minor} is older than 1.25")), "{words}");
        }
    }
}
