//! The families of object series: their names, types, units and help.

/// Which text format an exposition is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The classic Prometheus text format 0.0.4.
    Classic,
}

/// A family whose series describe objects of a cluster; the order is that of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The signal.
    HostedExpiration,
    /// End of each certificate of a mesh.
    NotAfter,
    /// Begin of each certificate of a mesh.
    NotBefore,
    /// Descriptions of each certificate of a mesh.
    Info,
    /// What is wrong with a mesh's certificates.
    Invalid,
    /// The meshes.
    MeshInfo,
    /// Which Secrets of a mesh exist.
    SecretPresent,
    /// Begin of each certificate of another Secret.
    OtherNotBefore,
    /// End of each certificate of another Secret.
    OtherNotAfter,
    /// Whether a certificate of another Secret has ended.
    OtherExpired,
    /// Whether a part of another Secret could not be read.
    OtherError,
}

impl Family {
    /// All families, in order.
    pub const ALL: [Self; 11] = [
        Self::HostedExpiration,
        Self::NotAfter,
        Self::NotBefore,
        Self::Info,
        Self::Invalid,
        Self::MeshInfo,
        Self::SecretPresent,
        Self::OtherNotBefore,
        Self::OtherNotAfter,
        Self::OtherExpired,
        Self::OtherError,
    ];

    /// The name of its samples, the same in both formats.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostedExpiration => "meshcert_hosted_kube_api_certificate_expiration_timestamp_seconds",
            Self::NotAfter => "meshcert_certificate_not_after_timestamp_seconds",
            Self::NotBefore => "meshcert_certificate_not_before_timestamp_seconds",
            Self::Info => "meshcert_certificate_info",
            Self::Invalid => "meshcert_certificate_invalid",
            Self::MeshInfo => "meshcert_hosted_mesh_info",
            Self::SecretPresent => "meshcert_hosted_mesh_secret_present",
            Self::OtherNotBefore => "x509_cert_not_before",
            Self::OtherNotAfter => "x509_cert_not_after",
            Self::OtherExpired => "x509_cert_expired",
            Self::OtherError => "x509_cert_error",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::HostedExpiration => {
                "Earliest moment at which a certificate that the hosted API needs stops working, CAs included."
            }
            Self::NotAfter => "Last moment of validity of a hosted mesh's certificate.",
            Self::NotBefore => "First moment of validity of a hosted mesh's certificate.",
            Self::Info => "What a hosted mesh's certificate is and who issued it.",
            Self::Invalid => "1 while an entry cannot be read or does not hold together, by reason.",
            Self::MeshInfo => "1 for each hosted mesh.",
            Self::SecretPresent => "Whether a Secret that a hosted mesh needs exists.",
            Self::OtherNotBefore => "Unix timestamp of the certificate's first moment of validity.",
            Self::OtherNotAfter => "Unix timestamp of the certificate's last moment of validity.",
            Self::OtherExpired => "1 if the certificate is expired, 0 otherwise.",
            Self::OtherError => "1 if a part of the entry could not be read as a certificate, 0 otherwise.",
        }
    }

    /// The lines that introduce the family. Classic text knows neither units nor the type `info`.
    pub fn header(self, format: Format) -> String {
        let (name, help) = (self.name(), self.help());
        match (format, name.strip_suffix("_info")) {
            (Format::OpenMetrics, Some(base)) => format!("# HELP {base} {help}\n# TYPE {base} info\n"),
            (Format::OpenMetrics, None) if name.ends_with("_seconds") => {
                format!("# HELP {name} {help}\n# TYPE {name} gauge\n# UNIT {name} seconds\n")
            }
            _ => format!("# HELP {name} {help}\n# TYPE {name} gauge\n"),
        }
    }
}
